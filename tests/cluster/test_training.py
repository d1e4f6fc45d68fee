"""Several processes train one run: the same bytes as one process, and one end for all."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from eanet.errors import PEER_ENDED
from eanet.tools import launch
from eanet.tools.verify_resume import digests
from tests.helpers import plain
from tests.helpers.command_line import MAIN, fork_main

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, MAIN, "--config=configs/testing.py"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    done = fork_main(*COMMAND[2:], f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def started(workdir, *more, count=2):
    with workdir.with_suffix(".txt").open("wb") as said:
        return launch.start([*COMMAND, f"--workdir={workdir}", *more], count, said)


def said(workdir):
    return workdir.with_suffix(".txt").read_text()


def steps(workdir):
    """Of the checkpoints that are there."""
    return [int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*")]


def test_two_processes_train_as_one_process_with_two_devices(one_device_each, alone, tmp_path):
    """Here streamed, in the next test from memory."""
    workdir = tmp_path / "run"
    processes = started(workdir, "--config.dataset.streaming=True")
    assert launch.outcome(processes) == 0, said(workdir)
    assert "are streamed" in said(workdir)
    assert digests(workdir) == digests(alone)
    for name in ("predictions_test.csv", "classes_test.csv"):
        assert (workdir / name).read_bytes() == (alone / name).read_bytes()
    assert said(workdir).count("Results on the test split") == 1
    assert "in 2 processes" in json.loads((workdir / "machine.json").read_text())["device"]


def test_a_signal_to_one_saves_and_one_process_goes_on(one_device_each, alone, tmp_path):
    workdir = tmp_path / "run"
    processes = started(workdir)
    while "\ntraining " not in said(workdir):
        assert processes[0].poll() is None, said(workdir)
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    assert launch.outcome(processes) == 128 + signal.SIGTERM, said(workdir)
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2
    assert said(workdir).count("state saved: the same command goes on") == 1
    done = fork_main("--config=configs/testing.py", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert digests(workdir) == digests(alone)


def test_a_process_that_hangs_ends_all_and_the_same_command_goes_on(
    compiled_quickly, tmp_path, monkeypatch
):
    """Process 0, which keeps all that the processes tell each other."""
    monkeypatch.setattr(launch, "_GRACE", 0.5)
    workdir, timeout = tmp_path / "run", 10  # seconds, for machines that do much else
    command = *plain.ARGUMENTS[1:], "--config.checkpoint_every_steps=1"
    processes = started(workdir, *command, f"--heartbeat_timeout={timeout}")
    while not steps(workdir):
        assert processes[0].poll() is None, said(workdir)
        time.sleep(0.005)
    processes[0].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    assert launch.outcome(processes) == PEER_ENDED, said(workdir)
    assert timeout <= time.monotonic() - stopped < timeout + 30
    assert processes[1].returncode == PEER_ENDED
    lines = [line for line in said(workdir).splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith("error: process 0 on ")
    assert f"has ended or hangs: no sign of life for {timeout} s" in lines[0]
    saved = max(steps(workdir))
    assert saved < 39
    assert launch.outcome(started(workdir, *command)) == 0, said(workdir)
    assert f"resumes at step {saved} of" in said(workdir)
    assert json.loads((workdir / "results_test.json").read_text())["num_examples"] == 359


def test_a_process_with_another_config_is_refused_by_all(one_device_each, tmp_path):
    port = launch.free_port()
    processes = [
        subprocess.Popen(
            [*COMMAND, f"--workdir={tmp_path / 'run'}", f"--config.seed={index}",
             f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={index}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
        )
        for index in range(2)
    ]  # fmt: skip
    (_, error), (_, other) = (process.communicate() for process in processes)
    assert [process.returncode for process in processes] == [2, 2]
    assert error.startswith("error: process 1 on ") and error.count("\n") == 1
    assert "seed is 1 there and 0 here" in error and not other
    assert not (tmp_path / "run").exists()
