"""Signals that ask training to stop in order, or to save and go on."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)
# What a lost terminal sends, and a cluster before it takes the machine away.
SAVE = (signal.SIGHUP, signal.SIGUSR1)

_asked_to_stop = threading.Event()


@dataclass
class Request:
    """Whether a signal has come, and which one."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def clear(self) -> None:
        """Forgets it, once what it asks for is done."""
        self.signal = None


@contextmanager
def stop_request() -> Iterator[Request]:
    """While the context lasts, the first of `STOP` is only noted; the second acts as usual."""
    request = Request()

    def note(number: int, _: FrameType | None) -> None:
        request.signal = number
        _asked_to_stop.set()
        for each in STOP:
            signal.signal(each, signal.SIG_DFL)

    with _handled(STOP, note):
        yield request


@contextmanager
def save_request() -> Iterator[Request]:
    """While the context lasts, the signals of `SAVE` are noted and end nothing.

    One that the process was started to ignore, as by `nohup`, it goes on to ignore.
    """
    request = Request()

    def note(number: int, _: FrameType | None) -> None:
        request.signal = number

    with _handled((each for each in SAVE if signal.getsignal(each) != signal.SIG_IGN), note):
        yield request


@contextmanager
def end_at_stop(first: Callable[[int], object] = lambda _: None) -> Iterator[None]:
    """While the context lasts, a signal of `STOP` ends the process: one line, code 128 + signal.

    What is to be done `first` is told the signal.

    Not by an exception, which may be swallowed by whatever runs at that moment, such as a callback
    of garbage collection. In a `stop_request` within, that counts.
    """

    def end(number: int, _: FrameType | None) -> None:
        with suppress(Exception):  # it may have been at just that
            sys.stdout.flush()
        with suppress(OSError):
            os.write(2, b"interrupted\n")
        with suppress(Exception):
            first(number)
        os._exit(128 + number)

    with _handled((each for each in STOP if signal.getsignal(each) != signal.SIG_IGN), end):
        yield


@contextmanager
def _handled(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    previous = {each: signal.signal(each, handler) for each in numbers}
    try:
        yield
    finally:
        for each, before in previous.items():
            signal.signal(each, before)


def stop_at_eof() -> None:
    """From now on the end of standard input asks to stop as SIGTERM does, where nothing has yet.

    Given a pipe as its input, a process so ends with the one that started it, whatever becomes of
    that one.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        if not _asked_to_stop.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
