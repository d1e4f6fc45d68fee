"""Directories that can prove they are whole: a manifest with the size and digest of every file."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from eanet.errors import UserError
from eanet.files import digest, open_regular, sync, write_atomically

MANIFEST = "manifest.json"
_METADATA = "facts"  # so called in the file since its first version

# What a file itself may have; all else is the system's, as too many open files are, and may pass.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.EIO}


class Damaged(Exception):
    """A directory is not what was sealed; the message is the reason, in a few words."""


def seal(directory: Path, metadata: dict[str, Any]) -> None:
    """Writes the manifest of everything in `directory`, with `metadata`, and syncs all of it.

    Once this has returned, a rename of the directory is all that is needed to publish it:
    neither a kill nor a loss of power can leave a part of it behind under the new name.
    """
    sealed = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                sealed[path.relative_to(directory).as_posix()] = _seal_of(file)
        sync(path)
    _write(directory, {_METADATA: metadata, "files": sealed})


def amend(directory: Path, metadata: dict[str, Any]) -> None:
    """Replaces the metadata in the manifest of a sealed directory, atomically."""
    _write(directory, {**_read(directory), _METADATA: metadata})


def metadata_of(directory: Path) -> dict[str, Any]:
    """The metadata `directory` was sealed with, unverified; raises as `verify`, of the manifest."""
    return _read(directory)[_METADATA]


def verify(directory: Path) -> None:
    """Compares every file with the manifest; files the manifest does not know do not matter.

    Raises:
      Damaged: naming the first file that is missing or has other bytes than were sealed.
      UserError: the system does not let it be read.
    """
    for name, sealed in _read(directory)["files"].items():
        with _opened(directory, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != sealed["bytes"]:
                raise Damaged(f"{name} has {size} bytes instead of {sealed['bytes']}")
            if _seal_of(file) != sealed:
                raise Damaged(f"{name} fails its checksum")


def _seal_of(file: BufferedReader) -> dict[str, Any]:
    return {
        "bytes": os.fstat(file.fileno()).st_size,
        "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
    }


def _write(directory: Path, content: dict[str, Any]) -> None:
    text = json.dumps({**content, "sha256": digest(content)}, indent=1, allow_nan=False)
    write_atomically(directory / MANIFEST, text.encode() + b"\n")


def _read(directory: Path) -> dict[str, Any]:
    with _opened(directory, MANIFEST) as file:
        content = json.loads(file.read())
        if content.pop("sha256") != digest(content):
            raise Damaged(f"{MANIFEST} fails its own checksum")
        if not (isinstance(content[_METADATA], dict) and isinstance(content["files"], dict)):
            raise TypeError("no objects")
    return content


@contextmanager
def _opened(directory: Path, name: str) -> Iterator[BufferedReader]:
    """A file of a sealed directory; what is wrong with it, or with the manifest, is `Damaged`."""
    try:
        if not PurePosixPath(name).parts or {"/", ".."} & {*PurePosixPath(name).parts}:
            raise ValueError("a name that leads elsewhere")
        with os.fdopen(open_regular(directory / name, follow=True), "rb") as file:
            yield file
    except FileNotFoundError:
        raise Damaged(f"{name} is missing") from None
    except OSError as error:
        if error.errno in _DAMAGE:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from error
        raise UserError(
            f"cannot read {directory / name}: {error.strerror}; mend that, then start again"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is not what was written") from error
