"""Standard streams that may be lost without ending what writes to them."""

import io
import os
import select
import sys
from typing import Any, TextIO


class _Output(io.FileIO):
    """What cannot be written, as to a closed pipe, a lost terminal or a full disk, is dropped."""

    def write(self, data: Any) -> int:
        """Writes, and waits where that is set not to block."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError:
            return memoryview(data).nbytes
        return written


def tolerate_loss() -> None:
    """From now on nothing ends because standard output or error are lost, or were never there."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # else a file of ours would take its place, and what others print to it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _reopened(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _reopened(2, sys.stderr)


def output_is_lost() -> bool:
    """Whether nobody is left to read standard output, as behind `| head` when that has ended."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it is no file of the system, or closed
        return False
    return bool(poll.poll(0))


def _reopened(descriptor: int, before: TextIO | None) -> TextIO:
    if isinstance(before, io.TextIOWrapper):
        before.flush()
        options: dict[str, Any] = {
            name: getattr(before, name)
            for name in ("encoding", "errors", "line_buffering", "write_through")
        }
    else:  # it was closed
        options = {"encoding": "utf-8", "errors": "replace"}
    raw = _Output(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), **options)
