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
