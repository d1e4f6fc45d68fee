"""Decoded datasets as plain `.npy` files, memory-mapped by later runs.

One folder per source: `SPLIT_images.npy` and `SPLIT_labels.npy` of each split, and `index.json`
with the class names, the fingerprints of the source and of each split, and a CRC-32 of every
array. Of a source that is not decoded as a whole there is another one, see `eanet.data.survey`. A
folder is written under a temporary name and renamed when complete, so readers never see
half of one.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eanet import files
from eanet.data.base import Decoded, Log, Source, Split, content_fingerprint

_FORMAT = 3  # 1 has no fingerprints of splits, 2 high bytes of 16-bit images


class _Unusable(Exception):
    """The cached copy exists but must be made again."""


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/eanet`, or `~/.cache/eanet` where that is unset or relative."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else files.home() / ".cache") / "eanet"


@dataclass(frozen=True)
class Kept:
    """Arrays by their names, and what else is to be known of them, as JSON has it."""

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


def cached(source: Source, cache_dir: Path, log: Log) -> Decoded:
    """The decoded source, from the cache where that holds a sound and current copy.

    Otherwise the source is decoded and stored; a cache that cannot be written is said so
    through `log` and is no error. Several processes may do this at the same time.
    """

    def decode() -> Kept:
        decoded = source.read()
        for note in decoded.notes:
            log(f"{source.name}: {note}")
        fingerprints = {
            part: content_fingerprint(split, decoded.class_names, ordered=part == "train")
            for part, split in decoded.splits.items()
        }
        arrays = {
            f"{part}_{what}": array
            for part, split in decoded.splits.items()
            for what, array in vars(split).items()
        }
        names = list(decoded.class_names)
        facts = {
            "splits": fingerprints,
            "class_names": names,
            "bits": decoded.bits,
            "skipped": decoded.skipped,
        }
        return Kept(arrays, facts)

    found = kept(source, cache_dir, log, "decoding", decode)
    arrays, facts = found.arrays, found.facts
    return Decoded(
        {
            part: Split(arrays[f"{part}_images"], arrays[f"{part}_labels"])
            for part in facts["splits"]
        },
        tuple(facts["class_names"]),
        facts["splits"],
        source.place,
        facts["bits"],
        facts.get("skipped", 0),
    )


def kept(source: Source, cache_dir: Path, log: Log, doing: str, make: Callable[[], Kept]) -> Kept:
    """What `make` gives of this source, from the cache as `cached` does it.

    `doing` says what that is; the same source may be kept in several ways.
    """
    folder = _folder(source, cache_dir)
    try:
        return _read(folder, source)
    except FileNotFoundError:
        log(f"{doing} {source.name} once; later starts read the copy in {folder}")
    except _Unusable as error:
        log(f"{doing} {source.name} again: the copy in {folder} is {error}")
    made = make()
    try:
        return _write(folder, source, made)
    except OSError as error:
        log(f"going on without a cache: {error}")
        return made


def find(source: Source, cache_dir: Path) -> Kept | None:
    """What is kept of a source; None where that has to be made first."""
    try:
        return _read(_folder(source, cache_dir), source)
    except (_Unusable, OSError):
        return None


def _folder(source: Source, cache_dir: Path) -> Path:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", source.name)[-60:]
    return cache_dir / f"{slug}-{hashlib.sha256(os.fsencode(source.identity)).hexdigest()[:12]}"


def _read(folder: Path, source: Source) -> Kept:
    """Raises FileNotFoundError where nothing is stored, `_Unusable` where it is not sound."""
    try:
        os.stat(folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Unusable(f"unreadable ({error.strerror})") from None
    try:
        index = json.loads(files.read_bytes(folder / "index.json"))
        content = index["content"]
        if index["crc32"] != _crc_of_json(content):
            raise _Unusable("damaged (index.json)")
        if content["format"] != _FORMAT:
            raise _Unusable("of another version")
        if content["fingerprint"] != source.fingerprint:
            raise _Unusable("out of date: its source has changed")
        # Mapped first, checked then: another process may replace the folder at any time.
        found = _load(folder, content)
        if content["arrays"] != _checksums(found.arrays):
            raise _Unusable("damaged")
        return found
    except _Unusable:
        raise
    except Exception as error:  # damaged headers make JSON and NumPy raise almost anything
        raise _Unusable(f"damaged ({error})") from None


def _load(folder: Path, content: Mapping[str, Any]) -> Kept:
    def array(name: str) -> np.ndarray:
        path = folder / f"{name}.npy"
        if not re.fullmatch(r"\w+", name) or not path.is_file():  # a pipe would wait for ever
            raise _Unusable(f"damaged ({path.name})")
        return np.load(path, mmap_mode="r", allow_pickle=False)

    return Kept({name: array(name) for name in content["arrays"]}, content)


def _write(folder: Path, source: Source, made: Kept) -> Kept:
    """Stores the arrays and returns them memory-mapped."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in folder.parent.glob(".*.partial"):  # of processes that were killed
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400:
                _remove(path)
    partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=folder.parent))
    try:
        for name, array in made.arrays.items():
            path = partial / f"{name}.npy"
            np.save(path, array, allow_pickle=False)
            files.sync(path)
        content = {
            "format": _FORMAT,
            "fingerprint": source.fingerprint,
            **made.facts,
            "arrays": _checksums(made.arrays),
        }
        index = {"crc32": _crc_of_json(content), "content": content}
        (partial / "index.json").write_text(json.dumps(index, indent=1), "utf-8")
        # Mapped before the renaming: whatever another process puts there, these stay ours.
        mapped = _load(partial, content)
        _replace(partial, folder)
        return mapped
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, folder: Path) -> None:
    """Moves `partial` to `folder`; where another process is quicker, its copy stays."""
    retired = partial.with_suffix(".retired.partial")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, retired)
    try:
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        _remove(retired)


def _remove(path: Path) -> None:
    """As far as possible, whatever it is: something else may lie where a copy should."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _crc_of_json(content: object) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """A CRC-32 over type, shape and content of every array."""
    checksums = {}
    for name, values in arrays.items():
        array = np.ascontiguousarray(values)
        start = zlib.crc32(f"{array.dtype.str}{array.shape}".encode())
        checksums[name] = zlib.crc32(array.data.cast("B"), start)
    return checksums
