"""SIGTERM and SIGINT ask training to stop in order; a second one ends the process at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    previous = {each: signal.signal(each, note) for each in SIGNALS}
    try:
        yield request
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
