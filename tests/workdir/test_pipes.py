"""Pipes and links in the place of a run's files keep nobody waiting, and lead nowhere."""

import os
import shutil
import signal

import pytest

import train
from configs import testing
from eanet.display.console import Console
from eanet.errors import UserError

FILES = (
    ".lock",
    "README.md",
    "calibration_test.png",
    "classes_test.csv",
    "config.json",
    "confusion_test.csv",
    "confusion_test.png",
    "curves.png",
    "machine.json",
    "metrics.jsonl",
    "mistakes_test.png",
    "model.json",
    "predictions_test.csv",
    "results_test.json",
    "run.json",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pipes") / "run"
    train.train(testing.get_config(), workdir)
    return workdir


@pytest.fixture
def in_time():
    """Ends what waits for ever."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_every_file_of_a_run_is_tried(finished):
    assert {path.name for path in finished.iterdir() if path.is_file()} == set(FILES)


def test_every_file_of_a_run_is_told(tmp_path, capsys):
    for name in FILES:
        (tmp_path / name).touch()
    Console(interactive=False).next_steps(tmp_path)
    said = capsys.readouterr().out
    assert {name for name in FILES if name not in said} == {".lock"}


@pytest.mark.parametrize("start", [train.evaluate, lambda workdir: train.train(None, workdir)])
@pytest.mark.parametrize("name", FILES)
def test_a_pipe_keeps_nobody_waiting(finished, tmp_path, in_time, name, start):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / name).unlink()
    os.mkfifo(workdir / name)
    try:
        assert start(workdir)["num_examples"] == 359
    except UserError as error:
        assert name in str(error)


@pytest.mark.parametrize("name", FILES)
def test_what_a_link_leads_to_stays_as_it_is(finished, tmp_path, in_time, name):
    workdir, precious = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(finished, workdir)
    content = (workdir / name).read_bytes()
    precious.write_bytes(content)
    (workdir / name).unlink()
    (workdir / name).symlink_to(precious)
    try:
        assert train.train(None, workdir)["num_examples"] == 359
    except UserError as error:
        assert name in str(error)
    assert precious.read_bytes() == content
