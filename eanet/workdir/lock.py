"""A lock that its holder cannot leave behind, and the place within which locks can be trusted."""

import fcntl
import hashlib
import os
import platform
from pathlib import Path

from eanet.errors import UserError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class RunLock:
    """Held until closed, or until every process that has inherited it has ended, however.

    Attributes:
      descriptor: to hand to a child process, which then holds the lock too; -1 once closed.
    """

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def close(self) -> None:
        """Gives up this process's hold; a second time does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def acquire(path: Path) -> RunLock | None:
    """Takes the lock, or gives None where it is held, by this process too.

    Raises:
      UserError: the file system has no locks, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise _unusable(path, error) from None
    return RunLock(descriptor)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock."""
    lock = acquire(path)
    if lock is None:
        return False
    lock.close()
    return True


def place(directory: Path) -> str:
    """Names a directory on one running system: processes in the same place see the same locks.

    On another host the same directory is another place, since network file systems do not all
    share locks; a host is another one after a restart.
    """
    try:
        system = _BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        system = platform.node()
    status = os.stat(directory)
    text = f"{system} {status.st_dev} {status.st_ino}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unusable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot lock {path}: {error.strerror or error}; choose another --workdir")
