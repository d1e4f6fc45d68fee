"""One at a time, of all threads and workers that decode, for what takes much memory."""

import contextlib
import fcntl
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_shared: int | None = None


def share(file: int) -> None:
    """From now on this process takes turns with others that have the same open file."""
    global _shared
    _shared = file


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Waits until nobody else is in such a context; a process that is killed leaves it too."""
    with _lock:
        if _shared is None:
            yield
            return
        fcntl.lockf(_shared, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(_shared, fcntl.LOCK_UN)
