"""Files that are either whole or as they were, and the one line where they cannot be written."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from eanet import hub, rules
from eanet.errors import UserError

_MAKE_ROOM = "make room or mend its directory"
_DIGEST = "sha256"
_LEFT_OVER_SECONDS = 3600.0  # no process takes as long to write a file


def write(path: str | Path, data: bytes, advice: str = _MAKE_ROOM) -> Path:
    """Replaces a file as `write_atomically` does, and returns its path.

    Raises `UserError`, with the advice, where it cannot be written; the old one is untouched.
    """
    try:
        write_atomically(path, data)
    except OSError as error:
        raise cannot_write(path, error, advice) from error
    return Path(path)


def write_json(path: str | Path, value: Any, advice: str = _MAKE_ROOM) -> Path:
    """Replaces a file by a value as `strict_json`, indented; raises as `write` does."""
    return write(path, strict_json(value, indent=2), advice)


def write_record(path: str | Path, record: Mapping[str, Any], advice: str = _MAKE_ROOM) -> Path:
    """Replaces a file by a JSON object that `read_record` finds damage in; raises as `write`."""
    return write_json(path, sealed(record), advice)


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its digest in it, which `read_record` looks at."""
    record = json.loads(strict_json(record))
    return {**record, _DIGEST: digest(record)}


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replaces a file as a whole: after a crash either the old or the new one is there.

    Raises `OSError` where it cannot be written; the old one is untouched.
    """
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write in, which takes the place of another as a whole when the context ends.

    Where that is by an exception nothing is left of it, and the old one is untouched. Raises
    `OSError` where it cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _remove_left_over(path)
        with os.fdopen(open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # an interrupt leaves nothing behind either
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _remove_left_over(path: Path) -> None:
    """Removes what killed processes left beside a file or directory that they wrote."""
    long_ago = time.time() - _LEFT_OVER_SECONDS
    for left in _written_beside(path, "tmp"):
        with contextlib.suppress(OSError):
            if left.lstat().st_mtime < long_ago or left.name.split(".")[-2] == str(os.getpid()):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _written_beside(path: Path, end: str) -> list[Path]:
    """What has the names that processes, by their numbers, give to what they write for this."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.\d+\.{end}")
    return [other for other in path.parent.glob(".*") if ours.fullmatch(other.name)]


def write_directory(path: Path, content: Mapping[str, bytes], advice: str = _MAKE_ROOM) -> None:
    """Replaces a directory, with all in it, by files of these names, where "/" makes folders.

    They are written beside it and put in its place when all are there. Raises `UserError`, with the
    advice, where they cannot be written; the old directory is untouched.
    """
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    put_back(path)
    try:
        _remove_left_over(path)
        temporary.mkdir(parents=True)
        for name, data in content.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(temporary / name, data)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error, advice) from error
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def put_back(path: Path) -> None:
    """Gives a directory its name again where a process was killed that replaced it.

    `write_directory` moves the old one away just before the new one takes its place. Where that is
    there, the old one is removed.
    """
    for old in _written_beside(path, "old"):
        with contextlib.suppress(OSError):
            shutil.rmtree(old) if path.exists() else old.rename(path)


def check_place(path: Path, advice: str = _MAKE_ROOM) -> None:
    """Makes the directory of what is to be written, before anything long is begun.

    Raises `UserError`, with the advice, where nothing can be put there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=path.parent).cleanup()
    except FileExistsError:
        raise UserError(f"cannot write {path}: {path.parent} is no directory; {advice}") from None
    except OSError as error:
        raise cannot_write(path, error, advice) from error


def local_path(path: str | Path) -> Path:
    """A directory as a user names it, with `~` expanded.

    Raises `UserError` for a place in a cloud or at the hub, or where `~` stands for no directory.
    """
    if hub.is_address(path):
        raise UserError(f"{path} is a model of the hub, and a directory is needed here")
    scheme = re.match(
        r"([A-Za-z][A-Za-z0-9+.-]+):/", str(path)
    )  # "gs:/x" is what a Path makes of it
    if scheme:
        raise UserError(
            f"{path} is no directory of this machine, and {scheme[1]}: is not supported; give one "
            "and copy it there afterwards, or mount the place as a directory"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: {error}; give the directory without ~") from None


def home() -> Path:
    """The user's home directory; for a user who has none a place where nothing can be."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def open_regular(path: str | Path, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
    """Opens a file as `os.open` does, but nothing else that may stand in its place.

    Writing through a link would change a file that is not ours, and a pipe waits for ever.

    A link to a file will do where it may `follow`. Child processes do not inherit the descriptor.
    Raises `OSError` for what cannot be opened, or is no regular file.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    odd = OSError(errno.EINVAL, "not a regular file", str(path))
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise odd if error.errno in (errno.ELOOP, errno.ENXIO) else error from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise odd
    return descriptor


def read_bytes(path: str | Path, *, follow: bool = True) -> bytes:
    """The content of a regular file, see `open_regular`; raises `OSError`."""
    with os.fdopen(open_regular(path, follow=follow), "rb") as file:
        return file.read()


def cannot_write(path: str | Path, error: OSError, advice: str = _MAKE_ROOM) -> UserError:
    """The one line for a file or directory that the system does not let us write."""
    return UserError(f"cannot write {path}: {error.strerror or error}; {advice}")


def is_read_only(error: BaseException) -> bool:
    """Whether an error of `write` means that nothing may be written there, and not a full disk."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def read_record(
    path: Path,
    advice: str = "remove it and evaluate again",
    known: Mapping[str, rules.Rule] | None = None,
) -> dict[str, Any] | None:
    """Reads a JSON object that was written, or None where there is no such file.

    One of `write_record` is compared with its digest, which older versions did not write. `known`
    has rules of values by key; one that is missing is None.

    Raises:
      UserError: with the advice: the file holds no JSON object, not the one that was written, or a
        value that its rule does not allow.
    """
    try:
        record = json.loads(read_bytes(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}; {advice}") from error
    if not isinstance(record, dict):
        raise UserError(f"cannot read {path}: no JSON object; {advice}")
    written = record.pop(_DIGEST, None)
    if written not in (None, digest(record)):
        raise UserError(f"{path} is not what was written, it was damaged or changed; {advice}")
    try:
        rules.check(known or {}, {key: record.get(key) for key in known or {}})
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}; {advice}") from None
    return record


def strict_json(value: Any, indent: int | None = None) -> bytes:
    """JSON that any parser reads, with a line end: numbers that are not finite become `null`.

    Scalars of NumPy and JAX are taken as numbers.
    """
    text = json.dumps(_finite(value), allow_nan=False, ensure_ascii=False, indent=indent)
    # Half of a surrogate pair, as a path may contain, is written as JSON's own escape of it.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, to be kept beside it so that damage is noticed."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def set_aside(path: Path, name: str) -> Path:
    """Renames `path` to `name` beside it, with a number where that is taken."""
    return path.rename(free_name(path.with_name(name)))


def free_name(path: Path) -> Path:
    """The path itself, or with a number behind it where that is taken."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def sync(path: Path) -> None:
    """Waits until a file, or the list of names in a directory, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
