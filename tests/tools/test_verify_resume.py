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
