"""Decoded datasets as plain `.npy` files, memory-mapped by later runs.

One folder per source: `SPLIT_images.npy` and `SPLIT_labels.npy` of each split, and `index.json`
with the class names, the fingerprints of the source and of each split, and a CRC-32 of every
array. A folder is written under a temporary name and renamed when complete, so readers never see
half of one.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Mapping
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


def cached(source: Source, cache_dir: Path, log: Log) -> Decoded:
    """The decoded source, from the cache where that holds a sound and current copy.

    Otherwise the source is decoded and stored; a cache that cannot be written is said so
    through `log` and is no error. Several processes may do this at the same time.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", source.name)[-60:]
    identity = hashlib.sha256(os.fsencode(source.identity)).hexdigest()[:12]
    folder = cache_dir / f"{slug}-{identity}"
    try:
        return _read(folder, source)
    except FileNotFoundError:
        log(f"decoding {source.name} once; later starts read the copy in {folder}")
    except (_Unusable, OSError) as error:
        log(f"decoding {source.name} again: the copy in {folder} is {error}")
    decoded = source.read()
    for note in decoded.notes:
        log(f"{source.name}: {note}")
    fingerprints = {
        part: content_fingerprint(split, decoded.class_names, ordered=part == "train")
        for part, split in decoded.splits.items()
    }
    decoded = dataclasses.replace(decoded, fingerprints=fingerprints, place=source.place)
    try:
        return _write(folder, source, decoded)
    except OSError as error:
        log(f"going on without a cache: {error}")
        return decoded


def _read(folder: Path, source: Source) -> Decoded:
    """Raises FileNotFoundError where nothing is stored, `_Unusable` where it is not sound."""
    os.stat(folder)
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
        decoded = _load(folder, content, source)
        if content["arrays"] != _checksums(decoded):
            raise _Unusable("damaged")
        return decoded
    except _Unusable:
        raise
    except Exception as error:  # damaged headers make JSON and NumPy raise almost anything
        raise _Unusable(f"damaged ({error})") from None


def _load(folder: Path, content: Mapping[str, Any], source: Source) -> Decoded:
    def array(split: str, what: str) -> np.ndarray:
        path = folder / f"{split}_{what}.npy"
        if not path.is_file():  # a pipe would wait for ever
            raise _Unusable(f"damaged ({path.name})")
        return np.load(path, mmap_mode="r", allow_pickle=False)

    return Decoded(
        {name: Split(array(name, "images"), array(name, "labels")) for name in content["splits"]},
        tuple(content["class_names"]),
        content["splits"],
        source.place,
        content["bits"],
        content.get("skipped", 0),
    )


def _write(folder: Path, source: Source, decoded: Decoded) -> Decoded:
    """Stores the arrays and returns them memory-mapped."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in folder.parent.glob(".*.partial"):  # of processes that were killed
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 86_400:
                shutil.rmtree(path)
    partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=folder.parent))
    try:
        for name, split in decoded.splits.items():
            for what, array in vars(split).items():
                path = partial / f"{name}_{what}.npy"
                np.save(path, array, allow_pickle=False)
                files.sync(path)
        content = {
            "format": _FORMAT,
            "fingerprint": source.fingerprint,
            "splits": decoded.fingerprints,
            "class_names": list(decoded.class_names),
            "bits": decoded.bits,
            "skipped": decoded.skipped,
            "arrays": _checksums(decoded),
        }
        index = {"crc32": _crc_of_json(content), "content": content}
        (partial / "index.json").write_text(json.dumps(index, indent=1), "utf-8")
        # Mapped before the renaming: whatever another process puts there, these stay ours.
        mapped = _load(partial, content, source)
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
        shutil.rmtree(retired, ignore_errors=True)


def _crc_of_json(content: object) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _checksums(decoded: Decoded) -> dict[str, int]:
    """A CRC-32 over type, shape and content of every array."""
    checksums = {}
    for name, split in decoded.splits.items():
        for what, values in vars(split).items():
            array = np.ascontiguousarray(values)
            start = zlib.crc32(f"{array.dtype.str}{array.shape}".encode())
            checksums[f"{name}_{what}"] = zlib.crc32(array.data.cast("B"), start)
    return checksums
