"""What every command does alike, as its user sees it."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import atexit, resource, time
from eanet import cli
atexit.register(lambda: (print("ending", flush=True), time.sleep(1)))
cli.run(lambda: print("files", resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True))
"""


def start(soft, hard):
    limit = (resource.RLIMIT_NOFILE, (soft, hard))
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(*limit),
    )


@pytest.mark.parametrize("most", [12, 40, 63])
def test_too_few_open_files_are_refused_in_one_line(most):
    process = start(most, most)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors == (
        f"error: only {most} files may be open at once here; allow 64 or more with ulimit -n\n"
    )


@pytest.mark.parametrize(("soft", "hard", "allowed"), [(20, 500, 500), (20, 3000, 1024)])
def test_a_low_limit_is_raised_as_far_as_one_may(soft, hard, allowed):
    process = start(soft, hard)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "") and f"files {allowed}\n" in out


def test_an_interrupt_after_the_end_interrupts_nothing():
    process = start(1000, 1000)
    while process.stdout.readline() != "ending\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


SWALLOWING = """
import time
from eanet import cli

def main():
    print("begun", end="")
    while True:
        try:
            print(".", flush=True)
            time.sleep(60)
        except BaseException:
            pass

cli.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_whatever_swallows_exceptions_swallows_no_signal(number):
    process = subprocess.Popen(
        [sys.executable, "-c", SWALLOWING],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun.\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, "interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", ""], "'' is empty"),
        (["verify-resume", "--config=configs/testing.py", "--out="], "--out= is empty"),
        (["compare", "a", ""], "'' is empty"),
    ],
)
def test_an_empty_argument_of_a_tool_is_refused(arguments, said):
    done = subprocess.run(
        [sys.executable, "-m", "eanet", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
