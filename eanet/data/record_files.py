"""Files of records, in the two forms that TFDS writes: one after the other, or any one of them."""

import functools
import itertools
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eanet import files
from eanet.data.base import Reference

_RECORDS_AT_ONCE = 1024
# Reads one record without those that follow it, and without threads.
_AT_RANDOM = "readahead_buffer_size:0,max_parallelism:0"
_OPEN_FILES = 128


class References(Sequence[Reference]):
    """For each record of some files its path and its place there, in their order."""

    def __init__(self, form: str, counts: Mapping[Path, int]):
        """`counts` has the files and how many records each should hold.

        Raises:
            ValueError: one holds another number.
        """
        self._paths = list(map(str, counts))
        self._ends = np.cumsum(list(counts.values()))
        self._places = [_PLACES[form](path) for path in counts]
        for path, places, count in zip(counts, self._places, counts.values(), strict=True):
            if len(places) != count:
                raise ValueError(f"{path.name} has {len(places)} of the {count} records it states")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        file = int(np.searchsorted(self._ends, index, "right"))
        return self._paths[file], int(self._places[file][index - int(self._ends[file])])


def records(form: str, path: Path) -> Iterator[bytes]:
    """All records of a file. Their checksums are skipped; encoded images are for the caller."""
    return _READERS[form](path)


def first_records(form: str, path: Path, count: int) -> list[bytes]:
    """The first records of a file, as many of `count` as there are, without those that follow."""
    if form == "tfrecord":
        return list(itertools.islice(_tfrecords(path), count))
    reader = _reader(path, _AT_RANDOM)
    try:
        return reader.read(0, min(count, reader.num_records())) if reader.num_records() else []
    finally:
        reader.close()


def record(form: str, path: Path, place: int) -> bytes:
    """One record, by its place as `References` has it."""
    if form == "array_record":
        return _opened(str(path)).read([place])[0]
    with os.fdopen(files.open_regular(path, follow=True), "rb") as file:
        file.seek(place)
        length = struct.unpack("<Q", file.read(8))[0]
        file.seek(4, os.SEEK_CUR)
        if length > os.fstat(file.fileno()).st_size - place:
            raise ValueError("it is truncated")
        return file.read(length)


def _tfrecords(path: Path) -> Iterator[bytes]:
    with os.fdopen(files.open_regular(path, follow=True), "rb") as file:
        for _, length in _headers(file):
            yield file.read(length)


def _headers(file: Any) -> Iterator[tuple[int, int]]:
    """Place and length of each record of a TFRecord file, at whose content the file then stands.

    A record is a uint64, the length, its checksum, the content, its checksum (CRC-32C, which Python
    lacks).
    """
    size, place = os.fstat(file.fileno()).st_size, 0
    while place < size:
        file.seek(place)
        header = file.read(12)
        length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
        if place + 12 + length + 4 > size:
            raise ValueError(f"{os.path.basename(file.name)} is truncated")
        yield place, length
        place += 12 + length + 4


def _tfrecord_places(path: Path) -> Sequence[int]:
    with os.fdopen(files.open_regular(path, follow=True), "rb") as file:
        return np.fromiter((place for place, _ in _headers(file)), np.int64)  # type: ignore


def _array_records(path: Path) -> Iterator[bytes]:
    reader = _reader(path)
    try:
        count = reader.num_records()
        for start in range(0, count, _RECORDS_AT_ONCE):
            yield from reader.read(start, min(start + _RECORDS_AT_ONCE, count))
    finally:
        reader.close()


def _array_record_places(path: Path) -> Sequence[int]:
    reader = _reader(path, _AT_RANDOM)
    try:
        return range(reader.num_records())
    finally:
        reader.close()


def _reader(path: Path, options: str = "") -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    os.close(files.open_regular(path, follow=True))  # for a pipe the reader would wait
    return ArrayRecordReader(str(path), options) if options else ArrayRecordReader(str(path))


@functools.lru_cache(_OPEN_FILES)
def _opened(path: str) -> Any:
    return _reader(Path(path), _AT_RANDOM)


_READERS: dict[str, Callable[[Path], Iterator[bytes]]] = {
    "tfrecord": _tfrecords,
    "array_record": _array_records,
}
_PLACES: dict[str, Callable[[Path], Sequence[int]]] = {
    "tfrecord": _tfrecord_places,
    "array_record": _array_record_places,
}
FORMS = tuple(_READERS)
