import signal
import subprocess
import sys

import pytest

from eanet.errors import PEER_ENDED, UserError
from eanet.tools import launch
from tests.helpers.command_line import ROOT, environment

# Which of them it is, as the last but one argument says.
INDEX = "import sys, time; index = int(sys.argv[-2].rpartition('=')[2]); "


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit([0, 3][index])", 3),
        ("time.sleep(index); sys.exit([4, 2][index])", 2),  # not of the one that ends after another
        ("sys.exit([4, 0][index])", PEER_ENDED),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_the_code_is_that_of_the_process_that_failed(body, code):
    said = []
    processes = launch.start([sys.executable, "-c", INDEX + body], 2)
    assert launch.outcome(processes, said.append) == code
    assert bool(said) == (code == 137)


@pytest.mark.parametrize("code", [1, PEER_ENDED])
def test_when_one_fails_those_that_hang_are_killed(code, monkeypatch):
    monkeypatch.setattr(launch, "_GRACE", 0.2)
    body, said = f"time.sleep(600 * index); sys.exit({code})", []
    processes = launch.start([sys.executable, "-c", INDEX + body], 3)
    assert launch.outcome(processes, said.append) == code
    assert said == [f"process {index} does not end and is killed" for index in (1, 2)]
    assert [process.returncode for process in processes] == [code, -signal.SIGKILL, -signal.SIGKILL]


def test_the_others_have_until_after_the_timeout_of_the_command_to_say_who_is_gone(monkeypatch):
    monkeypatch.setattr(launch, "_GRACE", 0.2)
    body = "timeout = sys.argv[1]; time.sleep(1.5 * index); sys.exit([1, 4][index])"
    command = [sys.executable, "-c", INDEX + body, "--heartbeat_timeout=3"]
    said, kills = [], []
    monkeypatch.setattr("builtins.print", lambda line, **_: said.append(line))
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: kills.append(process))
    assert launch.main(["--processes=2", "--", *command], "launch") == 1
    assert not kills and not said


def test_a_command_that_cannot_be_started_is_one_clear_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^nosuchprogram cannot be started: No such file"):
        launch.main(["--processes=2", "--", "nosuchprogram"], "launch")
    begun, start = [], launch._start

    def first_alone(*arguments):
        if begun:
            raise OSError("no more processes")
        begun.append(start(*arguments))
        return begun[0]

    monkeypatch.setattr(launch, "_start", first_alone)
    with pytest.raises(UserError, match="no more processes"):
        launch.start([sys.executable, "-c", "import time; time.sleep(600)"], 2)
    assert begun[0].returncode == -signal.SIGKILL


def test_processes_do_not_share_a_gpu(monkeypatch):
    monkeypatch.setattr("eanet.host._accelerator", lambda: "gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="--processes=3 on 2 GPUs: each needs its own"):
        launch.main(["--processes=3", "--", "true"], "launch")


def test_signals_are_passed_on():
    body = "print('up', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-m", "eanet", "launch", "--processes=2", "--",
         sys.executable, "-c", INDEX + body],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert [process.stdout.readline() for _ in range(2)] == ["up\n"] * 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes=0", "--", "true"], "--processes=0 must be at least 1"),
        (["--processes=2"], "the command is missing: -- python main.py"),
        (["--processes=2", "python", "main.py"], "unrecognized arguments: python main.py"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        launch.main(arguments, "launch")
