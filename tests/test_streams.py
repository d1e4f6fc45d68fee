"""Whatever becomes of standard output, what is done goes on to its end."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eanet import streams

ROOT = Path(__file__).parents[1]

# Prints more than a pipe holds, opens a file meanwhile, and tells in it how it ended.
PROGRAM = """
import os, subprocess, sys, time
from eanet import cli
from eanet.display.console import Console

def main():
    console = Console()
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2
        for number in range(3000):
            console.note(f"line {number} × " + 40 * "x")
            if number % 1000 == 0:
                os.system("echo from a child; echo likewise >&2")
        file.write("done")

cli.run(main)
"""


def start(path, **options):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], cwd=ROOT, **options)


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_were_never_there(tmp_path, closed):
    def close():
        for descriptor in closed:
            os.close(descriptor)

    process = start(tmp_path / "file", preexec_fn=close, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "file").read_text() == "done"
    assert (b"line 2999" in out) == (1 not in closed)


def test_a_full_device(tmp_path):
    with open("/dev/full", "wb") as full:
        process = start(tmp_path / "file", stdout=full, stderr=full)
        assert process.wait(60) == 0
    assert (tmp_path / "file").read_text() == "done"


def test_a_reader_that_has_seen_enough(tmp_path):
    process = start(tmp_path / "file", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"line 0")
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 0 and errors.count(b"likewise") == 3
    assert (tmp_path / "file").read_text() == "done"


def test_it_is_known_that_a_reader_has_seen_enough(monkeypatch):
    reader, writer = os.pipe()
    with open(writer, "w") as file, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", file)
        assert not streams.output_is_lost()
        os.close(reader)
        assert streams.output_is_lost()


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "file"])
def test_no_file_is_ever_lost(tmp_path, monkeypatch, path):
    with open(tmp_path / path, "w") as file, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", file)
        assert not streams.output_is_lost()


def test_a_pipe_that_does_not_block_loses_nothing(tmp_path):
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    process = start(tmp_path / "file", stdout=writer)
    os.close(writer)
    time.sleep(1)
    with open(reader, "rb") as file:
        lines = [line for line in file if line.startswith(b"line")]
    assert process.wait(60) == 0 and len(lines) == 3000
    assert "×" in lines[-1].decode()


def test_a_terminal_that_hangs_up(tmp_path):
    leader, terminal = pty.openpty()
    process = start(
        tmp_path / "file", stdin=terminal, stdout=terminal, stderr=terminal,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    os.close(terminal)
    os.read(leader, 100)
    os.close(leader)
    assert process.wait(60) == 0
    assert (tmp_path / "file").read_text() == "done"
