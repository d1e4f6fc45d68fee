"""Where the queue of a sweep is kept: a journal in its directory, or a database for many hosts."""

import random
import time
from pathlib import Path

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from eanet.errors import UserError

_TRIES = 5

# What a storage raises while its disk or its server cannot be reached, which may pass.
UNAVAILABLE = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, OSError)


def open_storage(url: str | None, directory: Path) -> BaseStorage:
    """Opens a storage, which is made where it is not there yet.

    Args:
      url: as SQLAlchemy has it, `postgresql://…`, `mysql://…` or `sqlite:///…`; None for a journal
        in `directory`.
      directory: of the queue, must exist.

    Raises:
      UserError: the storage cannot be reached, its driver is missing, or it is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return _open_database(url) if url else _open_journal(directory / "journal.log")


def _open_journal(path: Path) -> BaseStorage:
    # Absolute, since Optuna's locks look at the path from the directory they lie in.
    name = str(path.absolute())
    lock = JournalFileOpenLock(name)
    try:
        backend = JournalFileBackend(name, lock_obj=lock)
        lock.acquire()
        try:
            _mend(path)
        finally:
            lock.release()
        return JournalStorage(backend)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another --workdir"
        ) from None
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f"{path} is damaged: {error}; move it away while no worker runs, finished runs are "
            "recognised by their directories"
        ) from None


def _mend(path: Path) -> None:
    """Removes a last line that a failing disk has cut short, which would spoil the next one."""
    with open(path, "rb+") as file:
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)


def _open_database(url: str) -> BaseStorage:
    # Connections that stood idle for hours while runs trained may be gone; a SQLite file is
    # locked while another process writes.
    options: dict = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": 60}
    for left in reversed(range(_TRIES)):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except ImportError:
            raise UserError(
                f"--storage={_shown(url)} needs a driver: install psycopg[binary] for "
                "postgresql://, mysqlclient for mysql://"
            ) from None
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise UserError(f"--storage={_shown(url)} cannot be used: {_first(error)}") from None
        except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            # Also where two hosts make the tables at the same moment: then the next try is good.
            if not left:
                cause = error.__cause__ or error
                raise UserError(f"--storage={_shown(url)} does not answer: {_first(cause)}"
                                ) from None  # fmt: skip
            time.sleep(random.uniform(0.1, 1.0))
    raise AssertionError


def _shown(url: str) -> str:
    """The address without its password."""
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
