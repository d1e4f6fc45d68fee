"""What a process that follows another has in place of the files that the leading one writes.

It takes the same steps and decides alike, and so must know which lines are in the log.
"""

from collections.abc import Iterable
from typing import Any

from eanet.workdir.log import Record


class NoLock:
    """In place of a `RunLock`."""

    def confirm(self) -> None:
        """Does nothing: the leading process has the lock."""


class NoCheckpoints:
    """In place of `Checkpoints`: every device holds all of the state, and one process saves it."""

    def save(self, *_: Any, **__: Any) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""


class NoLog:
    """In place of a `RunLog`: remembers which lines that has."""

    path = ""

    def __init__(self, lines: Iterable[Iterable[Any]]):
        self._lines = {(int(step), str(split)) for step, split in lines}

    def write(self, step: int, epoch: float, split: str, **_: Any) -> None:
        """Remembers that the leading process writes this."""
        self._lines.add((int(step), split))

    def has(self, step: int, split: str) -> bool:
        """See `RunLog.has`."""
        return (step, split) in self._lines

    def get(self, step: int, split: str) -> Record:
        """Nothing, which nobody is shown here."""
        return {}

    def text(self) -> str:
        """Nothing, which is saved nowhere."""
        return ""
