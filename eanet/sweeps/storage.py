"""Where the queue of a sweep is kept: a journal in its directory, or a database for many hosts."""

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from eanet import files
from eanet.errors import UserError

_DIGEST = "digest"  # of a line of the journal

# What a storage raises while its disk or its server cannot be reached, which may pass.
UNAVAILABLE = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError)


def open_storage(url: str | None, directory: Path) -> BaseStorage:
    """Opens a storage, which is made where it is not there yet.

    The URL is as SQLAlchemy has it, `postgresql://…`, `mysql://…` or `sqlite:///…`; None stands for
    a journal in the directory.

    Raises:
      UserError: the storage cannot be reached, its driver is missing, or it is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    check_url(url)
    return _open_database(url) if url else _open_journal(directory / "journal.log")


def check_url(url: str | None) -> None:
    """Raises `UserError` for what no storage can have as its URL; None stands for the journal."""
    if url is None:
        return
    if "://" not in url:
        raise UserError(f"--storage={url} is no URL; a file is named sqlite:///{url}")
    try:
        address = sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # whose text may hold a password
        raise UserError(
            f"--storage={_shown(url)} cannot be used: write DIALECT://USER:PASSWORD@HOST:PORT/NAME"
        ) from None
    try:
        address.get_dialect()
    except sqlalchemy.exc.ArgumentError as error:
        raise UserError(f"--storage={_shown(url)} cannot be used: {_first(error)}") from None


class _Journal(JournalFileBackend):
    """Optuna's, but that it notices damage: each line has a digest, and the file only grows."""

    _sealed = False  # whether lines with digests have begun: older versions wrote none

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        plain = json.loads(json.dumps(logs))
        super().append_logs([{**log, _DIGEST: files.digest(log)} for log in plain])

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The lines from a number on; a `UserError` where they are not what was written."""
        try:
            if os.stat(self._file_path).st_size < self._log_number_offset.get(log_number_from, 0):
                raise ValueError("it was cut")
            for number, log in enumerate(super().read_logs(log_number_from), log_number_from + 1):
                digest = log.pop(_DIGEST, None) if isinstance(log, dict) else ""
                self._sealed |= digest is not None
                if self._sealed and digest != files.digest(log):
                    raise ValueError(f"line {number} is not what was written")
                yield log
        except (FileNotFoundError, ValueError) as error:
            if isinstance(error, OSError) and not os.path.isdir(os.path.dirname(self._file_path)):
                raise  # a file system that is away, and may come back
            raise _damaged(self._file_path, error) from None


def _open_journal(path: Path) -> BaseStorage:
    # Absolute, since Optuna's locks look at the path from the directory they lie in.
    name = str(path.absolute())
    lock = JournalFileOpenLock(name)
    try:
        backend = _Journal(name, lock_obj=lock)
        lock.acquire()
        try:
            _mend(path)
        finally:
            lock.release()
        return JournalStorage(backend)
    except OSError as error:
        raise files.cannot_write(path, error, "make room or choose another --workdir") from None
    except UserError:
        raise
    except Exception as error:  # whatever Optuna stumbles over in a journal without digests
        raise _damaged(path, error) from None


def _damaged(path: str | Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged: {error}; start the command again, and if it says this again, move the "
        "file away while no worker runs: finished runs are recognised by their directories"
    )


def _mend(path: Path) -> None:
    """Removes a last line that a failing disk has spoilt, which would spoil the next one."""
    with os.fdopen(files.open_regular(path, os.O_RDWR), "rb+") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        last = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
        try:
            json.loads(data[last:end] or b"{}")
        except ValueError:
            end = last
        file.truncate(end)


def _open_database(url: str) -> BaseStorage:
    # Connections that stood idle for hours while runs trained may be gone; a SQLite file is
    # locked while another process writes.
    options: dict = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": 60}
    for left in reversed(range(5)):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except ImportError:
            raise UserError(
                f"--storage={_shown(url)} needs a driver: install psycopg[binary] for "
                "postgresql://, mysqlclient for mysql://"
            ) from None
        except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            # Also where two hosts make the tables at the same moment: then the next try is good.
            if not left:
                cause = _first(error.__cause__ or error)
                raise UserError(f"--storage={_shown(url)} does not answer: {cause}") from None
            time.sleep(random.uniform(0.1, 1.0))
    raise AssertionError


def _shown(url: str) -> str:
    """The address without its password."""
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return f"{url.partition('://')[0]}://…"


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
