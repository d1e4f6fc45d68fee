"""SIGTERM and SIGINT ask training to stop in order; a second one ends the process at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_asked = threading.Event()


class StopRequest:
    """Whether a signal has asked to stop, and which one.

    Attributes:
      signal: its number, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """While the context lasts, the first signal is only noted; the second acts as usual."""
    request = StopRequest()

    def note(number: int, _: FrameType | None) -> None:
        request.signal = number
        _asked.set()
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    previous = {each: signal.signal(each, note) for each in SIGNALS}
    try:
        yield request
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def stop_at_eof() -> None:
    """From now on the end of standard input asks to stop as SIGTERM does, where nothing has yet.

    Given a pipe as its input, a process so ends with the one that started it, whatever becomes of
    that one.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        if not _asked.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
