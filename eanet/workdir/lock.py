"""A lock that its holder cannot leave behind, and the place within which locks can be trusted."""

import fcntl
import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from eanet.errors import UserError
from eanet.files import open_regular

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_ATTEMPTS = 10


@dataclass(eq=False)
class RunLock:
    """Held until closed, or until every process that has inherited it has ended, however."""

    path: Path  # of the file that is locked
    descriptor: int  # to hand to a child process, which then holds the lock too; -1 once closed

    def close(self) -> None:
        """Gives up this process's hold; a second time does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def is_intact(self) -> bool:
        """Whether others who want the lock find the file that is locked here."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self.descriptor))
        except OSError:
            return False

    def confirm(self) -> None:
        """Takes the lock again where somebody has removed its file.

        Raises:
          UserError: another file is there, so that another process may have the lock.
        """
        if self.is_intact():
            return
        again = None if os.path.lexists(self.path) else acquire(self.path, make_directory=False)
        if again is None:
            raise UserError(
                f"{self.path} has been replaced, so another process may work in its directory; "
                "stopped before anything was written there: look who, then start again"
            )
        os.dup2(again.descriptor, self.descriptor, inheritable=False)
        again.close()


def acquire(path: Path, *, make_directory: bool = True) -> RunLock | None:
    """Takes the lock, or gives None where it is held, by this process too.

    Raises:
      UserError: the file system has no locks, or the file cannot be made.
    """
    try:
        if make_directory:
            path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_ATTEMPTS):
            lock = RunLock(path, open_regular(path, os.O_RDWR | os.O_CREAT))
            try:
                fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.close()
                if isinstance(error, BlockingIOError):
                    return None
                raise
            if lock.is_intact():
                return lock
            lock.close()  # the file was removed in between
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot lock {path}: {reason}; choose another --workdir") from None
    raise UserError(f"cannot lock {path}: it keeps being removed; choose another --workdir")


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock."""
    lock = acquire(path)
    if lock:
        lock.close()
    return lock is not None


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
