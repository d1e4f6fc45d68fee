import signal

import pytest

from eanet import cli
from eanet.errors import UserError
from eanet.tools import verify_resume


@pytest.mark.parametrize("argument", ["--kills=0", "--kills=often", "--config.batch_size=0"])
def test_impossible_arguments_are_refused(argument):
    name = argument.rpartition("=")[0].removeprefix("--config.").removeprefix("--")
    with pytest.raises(UserError, match=name):
        verify_resume.main(["--config=configs/testing.py", argument], "verify-resume")


def test_a_place_that_cannot_be_written_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(verify_resume, "_verify", lambda *_: pytest.fail("too late"))
    with pytest.raises(UserError, match=r"test_verify_resume\.py is no directory"):
        verify_resume.main(["--config=configs/testing.py", f"--out={__file__}/a"], "verify-resume")


def test_without_a_checkout_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "eanet" / "cli.py"))
    with pytest.raises(
        UserError, match=r"no main\.py, only a checkout has; run this command there"
    ):
        verify_resume.main(["--config=configs/testing.py"], "verify-resume")


class Run:
    """A run that ends before it is stopped, so often as `quick` says of those after the first."""

    def __init__(self, directory, quick):
        self.workdir, self.number = directory, int(directory.name.rpartition("_")[2] or 0)
        self.quick = quick

    def start(self):
        pass

    def wait_until_training(self):
        return True

    def wait_for(self, moment, seconds):
        return self.number > self.quick

    def send_signal(self, number, draw):
        return []

    def end_with(self, *codes):
        pass


@pytest.mark.parametrize("quick", [0, 2, 3])
def test_a_run_that_was_quicker_than_the_stop_is_run_again_with_earlier_ones(
    monkeypatch, tmp_path, quick
):
    monkeypatch.setattr(verify_resume, "digests", lambda _: {"step": "1"})
    runs = []

    def started(directory):
        directory = tmp_path / "alone_0" if directory.name == "left_alone" else directory
        runs.append(Run(directory, quick))
        return runs[-1]

    if quick == 3:
        with pytest.raises(UserError, match="ends before it can be stopped; raise num_epochs"):
            verify_resume._verify(started, tmp_path, 2, 0)
        return
    found = verify_resume._verify(started, tmp_path, 2, 0)
    assert found["stops"]["in all"] == 2
    assert sum(found["stops"].get(each.name, 0) for each in signal.Signals) == 2
    assert len(found["stopped"]) == len(runs) - 1 == quick + 1
