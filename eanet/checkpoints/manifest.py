"""Directories that can prove they are whole: a manifest with the size and digest of every file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from eanet.files import sync

MANIFEST = "manifest.json"


class Damaged(Exception):
    """A directory is not what was sealed; the message is the reason, in a few words."""


def seal(directory: Path, facts: dict[str, Any]) -> None:
    """Writes the manifest of everything in `directory`, with `facts`, and syncs all of it to disk.

    Once this has returned, a rename of the directory is all that is needed to publish it:
    neither a kill nor a loss of power can leave a part of it behind under the new name.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            sync(path)
        else:
            files[path.relative_to(directory).as_posix()] = {
                "bytes": path.stat().st_size,
                "sha256": _digest(path),
            }
            sync(path)
    _write_manifest(directory, {"facts": facts, "files": files})


def amend(directory: Path, facts: dict[str, Any]) -> None:
    """Replaces the facts in the manifest of a sealed directory, atomically."""
    _write_manifest(directory, {**_read_manifest(directory), "facts": facts})


def facts_of(directory: Path) -> dict[str, Any]:
    """The facts `directory` was sealed with; does not look at its other files.

    Raises:
        Damaged: the manifest is missing or is not what was written.
    """
    return _read_manifest(directory)["facts"]


def verify(directory: Path) -> None:
    """Compares every file with the manifest; files the manifest does not know do not matter.

    Raises:
        Damaged: naming the first file that is missing or has other bytes than were sealed.
    """
    for name, sealed in _read_manifest(directory)["files"].items():
        path = directory / name
        try:
            size = path.stat().st_size
            if size != sealed["bytes"]:
                raise Damaged(f"{name} has {size} bytes instead of {sealed['bytes']}")
            if _digest(path) != sealed["sha256"]:
                raise Damaged(f"{name} fails its checksum")
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{MANIFEST} is not what was written") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_manifest(directory: Path, content: dict[str, Any]) -> None:
    sealed = {**content, "sha256": _own_digest(content)}
    temporary = directory / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(sealed, indent=1, allow_nan=False) + "\n")
    sync(temporary)
    temporary.replace(directory / MANIFEST)
    sync(directory)


def _read_manifest(directory: Path) -> dict[str, Any]:
    try:
        content = json.loads((directory / MANIFEST).read_bytes())
        digest = content.pop("sha256")
        if digest != _own_digest(content):
            raise Damaged(f"{MANIFEST} fails its own checksum")
        if not (isinstance(content["facts"], dict) and isinstance(content["files"], dict)):
            raise Damaged(f"{MANIFEST} is not what was written")
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST} is missing") from None
    except OSError as error:
        raise Damaged(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} is not what was written") from error
    return content
