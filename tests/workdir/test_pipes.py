"""Pipes and links in the place of a run's files keep nobody waiting, and lead nowhere."""

import os
import shutil
import signal

import pytest

import train
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


def places(*alone):
    """Each of these files by itself, and all others at once."""
    return {name: {name} for name in alone} | {"others": set(FILES) - set(alone)}


READ = places(".lock", "config.json", "machine.json", "metrics.jsonl", "model.json", "run.json")
WRITTEN_TO = places(".lock", "metrics.jsonl")

pytestmark = pytest.mark.usefixtures("undrawn")


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


def test_every_file_of_a_run_is_tried(trained):
    assert {path.name for path in trained.iterdir() if path.is_file()} == set(FILES)


def test_every_file_of_a_run_is_told(tmp_path, capsys):
    for name in FILES:
        (tmp_path / name).touch()
    Console(interactive=False).next_steps(tmp_path)
    said = capsys.readouterr().out
    assert {name for name in FILES if name not in said} == {".lock"}


@pytest.mark.parametrize("start", [train.evaluate, lambda workdir: train.train(None, workdir)])
@pytest.mark.parametrize("place", READ)
def test_a_pipe_keeps_nobody_waiting(trained, tmp_path, in_time, place, start):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    for name in READ[place]:
        (workdir / name).unlink()
        os.mkfifo(workdir / name)
    try:
        assert start(workdir)["num_examples"] == 359
    except UserError as error:
        assert place in str(error)
    if place == "others":  # which are replaced
        assert all((workdir / name).is_file() for name in READ[place])


@pytest.mark.parametrize("place", WRITTEN_TO)
def test_what_a_link_leads_to_stays_as_it_is(trained, tmp_path, in_time, place):
    workdir, precious = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(trained, workdir)
    shutil.copytree(trained, precious)
    before = {name: (precious / name).read_bytes() for name in WRITTEN_TO[place]}
    for name in before:
        (workdir / name).unlink()
        (workdir / name).symlink_to(precious / name)
    try:
        assert train.train(None, workdir)["num_examples"] == 359
    except UserError as error:
        assert place in str(error)
    assert before == {name: (precious / name).read_bytes() for name in before}
