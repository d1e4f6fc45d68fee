"""The directory of a run: made once, claimed by one config and one process at a time."""

import json
import os
import socket
import time
from collections.abc import Callable, Container, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import files
from eanet.errors import UserError
from eanet.workdir import lock as lock_lib
from eanet.workdir import model_record
from eanet.workdir.lock import RunLock

LOCK = ".lock"

_SHOWN_DIFFERENCES = 6


# What may change in a run that has begun: how long and how often, and whether data is streamed;
# nothing that a step computes but the learning rate of a schedule that has an end, and whether
# augmentation is mild.
MAY_CHANGE = (
    *("num_epochs", "eval_every_epochs", "layer_statistics", "dataset.streaming"),
    *(f"checkpoint_every_{unit}" for unit in ("epochs", "steps", "minutes")),
)


@contextmanager
def claimed(
    workdir: Path,
    config: ConfigDict,
    say: Callable[[str], object],
    *,
    may_change: Container[str] = (),
) -> Iterator[RunLock]:
    """While the context lasts, the workdir belongs to this config and this process.

    It is made, with the config in it, where it does not exist; keys of the config that `may_change`
    may have other values than there. The claim is a lock of the operating
    system, which ends with its process however that dies, and may be lost while somebody removes
    files, see `RunLock.confirm`. `say` is told where that of a process that died is taken over.

    Raises:
      UserError: if the workdir belongs to another config, is in use, or cannot be written.
    """
    check(workdir, config, may_change=may_change)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(workdir, error) from None
    lock = lock_lib.acquire(workdir / LOCK)
    if lock is None:
        owner = _owner(workdir) or "another process"
        raise UserError(
            f"{workdir} is in use by {owner}; wait for it, stop it, or choose another --workdir"
        )
    with closing(lock):
        check(
            workdir, config, may_change=may_change
        )  # again, for what another process did before it ended
        if died := _owner(workdir):
            say(f"{workdir} was left by {died}, which no longer runs; taking over")
        try:
            _write_owner(lock.descriptor)
            if not os.path.exists(workdir / "config.json"):
                config_lib.write(workdir, config)
        except OSError as error:
            raise _cannot_write(workdir, error) from None
        try:
            yield lock
        finally:
            with suppress(OSError):
                os.ftruncate(lock.descriptor, 0)


def check(workdir: Path, config: ConfigDict, *, may_change: Container[str] = ()) -> None:
    """Raises `UserError` for a workdir that belongs to something else; changes nothing."""
    path = workdir / "config.json"
    if not os.path.exists(path):
        if os.path.exists(workdir / "checkpoints"):
            raise UserError(
                f"{workdir} holds checkpoints but no config.json, so it is unknown what they "
                "belong to; choose another --workdir"
            )
        return
    differences = config_lib.differences(config_lib.from_json(path), config_lib.filled(config))
    differences = [each for each in differences if each[0] not in may_change]
    if model_record.read(workdir):  # which knows the data itself
        differences = [each for each in differences if not _is_place(*each)]
    if differences:
        shown = [f"{key} is {old!r} there, {new!r} here" for key, old, new in differences]
        more = len(shown) - _SHOWN_DIFFERENCES
        rest = f" and {more} more" if more > 0 else ""
        raise UserError(
            f"{workdir} belongs to a run with another config ({config_lib.written_by(path)}): "
            f"{'; '.join(shown[:_SHOWN_DIFFERENCES])}{rest}. Nothing was changed; choose another "
            "--workdir, or give the saved values to go on with that run"
        )


def take_changes(
    workdir: Path, config: ConfigDict, *, reached: tuple[int, float], say: Callable[[str], object]
) -> None:
    """Writes what has changed of a claimed run's config, and says it.

    `reached` is the step, and the epochs that it makes, where the run stands.

    Raises:
      UserError: the run is longer already than it shall be, or cannot be written.
    """
    step, epochs = reached
    saved = config_lib.from_json(workdir / "config.json")
    if not (changed := config_lib.differences(saved, config_lib.filled(config))):
        return
    if epochs > config.num_epochs:
        raise UserError(
            f"{workdir} has trained {epochs:g} epochs, more than num_epochs={config.num_epochs:g}; "
            "nothing was changed: ask for more, or choose another --workdir"
        )
    try:
        config_lib.rewrite(workdir, config, step)
    except OSError as error:
        raise _cannot_write(workdir, error) from None
    for key, before, after in changed:
        say(f"from step {step:,} on {key} is {after!r}, no longer {before!r}")


def _is_place(key: str, old: Any, new: Any) -> bool:
    """Whether a key says where the data lies."""
    folders = all(str(name).startswith("folder:") for name in (old, new))
    return key == "dataset.data_dir" or (key == "dataset.name" and folders)


def _cannot_write(workdir: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to the workdir {workdir}: {error.strerror}; choose another --workdir"
    )


def _write_owner(lock: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(owner).encode(), 0)
    os.fsync(lock)


def _owner(workdir: Path) -> str:
    """The last process to hold the lock, as it described itself; "" where it ended in order."""
    try:
        owner = json.loads(files.read_bytes(workdir / LOCK))
        return f"process {owner['pid']} on {owner['host']}, running since {owner['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
