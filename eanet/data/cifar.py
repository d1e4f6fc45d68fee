"""CIFAR-10 and CIFAR-100 from their official binary archives, without TensorFlow.

The archive is checked by its SHA-256 digest before anything in it is looked at, and its members
are read by exact name, never extracted. The examples keep the archive's order (TFDS shuffles
them), so `val_split="last"` holds out the same images as the Keras example.
"""

import hashlib
import http.client
import io
import os
import tarfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eanet import files
from eanet.data.base import Decoded, Log, Source, Split
from eanet.errors import UserError

_SERVER = "https://www.cs.toronto.edu/~kriz"


class DownloadFailed(Exception):
    """The archive could not be had; the message says why, as part of a sentence."""


@dataclass(frozen=True)
class Archive:
    """An archive as published: digests and sizes as in TFDS's own checksum files."""

    file: str
    size: int
    sha256: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    class_names: str
    examples_per_file: dict[str, int]
    label_bytes: int  # the last of them is the label that is used


ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
        ("cifar-10-batches-bin/test_batch.bin",),
        "cifar-10-batches-bin/batches.meta.txt",
        {"train": 10_000, "test": 10_000},
        1,
    ),
    "cifar100": Archive(
        "cifar-100-binary.tar.gz",
        168_513_733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ("cifar-100-binary/train.bin",),
        ("cifar-100-binary/test.bin",),
        "cifar-100-binary/fine_label_names.txt",
        {"train": 50_000, "test": 10_000},
        2,
    ),
}


def cifar_source(name: str, data_dir: Path, cache_dir: Path, log: Log) -> Source:
    """The archive of `ARCHIVES[name]`, lying in one of the directories or downloaded.

    `Source.read` raises `DownloadFailed` where it cannot be had.
    """
    archive = ARCHIVES[name]
    return Source(
        name,
        archive.file,
        archive.sha256,
        lambda: _parse(archive, _archive_bytes(archive, data_dir, cache_dir, log)),
    )


def _archive_bytes(archive: Archive, data_dir: Path, cache_dir: Path, log: Log) -> bytes:
    for folder in (data_dir, cache_dir):
        path = folder / archive.file
        try:
            content = path.read_bytes() if path.stat().st_size == archive.size else b""
            if hashlib.sha256(content).hexdigest() == archive.sha256:
                return content
            log(f"{path} is not the official archive (its size or digest differs): not used")
        except FileNotFoundError:
            continue
        except OSError as error:
            log(f"{path} cannot be read ({error.strerror}): not used")
    content = _download(archive, log)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        files.write_atomically(cache_dir / archive.file, content)
    except OSError as error:
        log(f"the archive is not kept: {error}")
    return content


def _download(archive: Archive, log: Log) -> bytes:
    """Raises DownloadFailed, and UserError where EANET_CIFAR_MIRROR is no web address."""
    server = os.environ.get("EANET_CIFAR_MIRROR") or _SERVER
    if not server.startswith(("https://", "http://")):
        raise UserError(f"EANET_CIFAR_MIRROR={server} must start with https:// or http://")
    url = f"{server.rstrip('/')}/{archive.file}"
    log(f"downloading {url} ({archive.size / 1e6:.0f} MB)")
    content = bytearray()
    started = reported = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            while len(content) <= archive.size and (block := response.read(2**18)):
                content += block
                now = time.monotonic()
                if now - reported > 10:
                    reported = now
                    speed = len(content) / (now - started)
                    left = (archive.size - len(content)) / speed
                    log(
                        f"{len(content) / 1e6:.0f} of {archive.size / 1e6:.0f} MB, "
                        f"{speed / 1e6:.2f} MB/s, {left / 60:.0f} min left"
                    )
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DownloadFailed(f"{url} could not be read ({error})") from None
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        raise DownloadFailed(f"{url} does not give the official archive (SHA-256 differs)")
    return bytes(content)


def _parse(archive: Archive, content: bytes) -> Decoded:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            splits = {part: _split(archive, tar, part) for part in ("train", "test")}
            names = _member(tar, archive.class_names, 10_000).decode("utf-8").split()
    except Exception as error:  # a damaged archive makes tarfile raise almost anything
        raise UserError(f"{archive.file} is not what it should be: {error}") from None
    return Decoded(splits, tuple(names))


def _split(archive: Archive, tar: tarfile.TarFile, part: str) -> Split:
    names: tuple[str, ...] = getattr(archive, part)
    record_bytes = archive.label_bytes + 3 * 32 * 32
    size = archive.examples_per_file[part] * record_bytes
    data = b"".join(_member(tar, name, size) for name in names)
    if len(data) != size * len(names):
        raise ValueError(f"the files of {part} have {len(data)} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, record_bytes)
    images = records[:, archive.label_bytes :].reshape(-1, 3, 32, 32)
    labels = records[:, archive.label_bytes - 1].astype(np.int32)
    return Split(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels)


def _member(tar: tarfile.TarFile, name: str, limit: int) -> bytes:
    """The content of a plain file in the archive; no link is followed."""
    info = tar.getmember(name)
    file = tar.extractfile(info) if info.isreg() and info.size <= limit else None
    if file is None:
        raise ValueError(f"{name} is no file of at most {limit} bytes")
    return file.read()
