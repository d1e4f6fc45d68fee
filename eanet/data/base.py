"""What every source of images hands over, whatever it reads from."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from eanet.data import resize as resize_lib
from eanet.errors import UserError
from eanet.host import physical_memory

# Called with a line of text where something takes long or needs to be known.
Log = Callable[[str], object]
MaybePath = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Split:
    """Images `uint8[N, H, W, C]` with their labels `int32[N]`."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice | np.ndarray) -> "Split":
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Decoded:
    """A decoded dataset: `train`, `test` and, where the source has its own, `val`.

    The cache adds the fingerprints of the splits, see `content_fingerprint`, and their place.
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...]  # label `i` means `class_names[i]`
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    place: str | None = None
    bits: int | None = None  # of the values of its 16-bit images, see `eanet.data.images`
    skipped: int = 0  # files that could not be read and were left out
    notes: tuple[str, ...] = ()  # what a person should know of how it was read


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from."""

    name: str  # for messages and file names
    identity: str  # which source it is; stays the same while its content may change
    fingerprint: str  # changes whenever the content does
    read: Callable[[], Decoded]  # decodes everything; seconds to minutes
    place: str | None = None  # absolute path of what is read; None where that is always the same


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source beyond its name; it may give more."""

    part: str | None = None  # the one that is needed, whose own classes then suffice; None for all
    channels: int | None = None  # of the images, 1 or 3; None where the images decide
    bits: int | None = None  # of the values of 16-bit images, see `eanet.data.images`; likewise
    # Height and width that all images get by `resize`, see `eanet.data.resize`; None where all have
    # one size, and keep it.
    image_size: tuple[int, int] | None = None
    resize: str = resize_lib.DEFAULT
    test_fraction: float = 0.2  # of each class, where the source has no test split of its own
    skip_bad: bool = False  # whether an image that cannot be read is left out, and counted


def fingerprint(files: Iterable[tuple[str, os.stat_result]]) -> str:
    """A digest over the names of files, their sizes, and when and where they were last written.

    A program may set the modification time back, but not that of the change (`ctime`).
    """
    lines = sorted(
        f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
        for name, stat in files
    )
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def content_fingerprint(split: Split, class_names: Sequence[str], *, ordered: bool) -> str:
    """A digest over the pixels and the class names of all examples, whatever they were read from.

    `ordered` says whether their order counts, as it does in training.
    """
    shape = str(split.images.shape[1:])
    starts = [sha256(f"{shape}\0{name}\0".encode("utf-8", "surrogatepass")) for name in class_names]

    def digest(image: np.ndarray, label: int) -> bytes:
        state = starts[label].copy()
        state.update(np.ascontiguousarray(image).data)
        return state.digest()

    digests = list(map(digest, split.images, split.labels.tolist()))
    return sha256(b"".join(digests if ordered else sorted(digests))).hexdigest()[:32]


def empty_images(count: int, image_shape: tuple[int, ...], name: str | Path) -> np.ndarray:
    """Room for `uint8[count, H, W, C]`; raises as `check_memory` does."""
    check_memory(count, image_shape, name)
    return np.empty((count, *image_shape), np.uint8)


def check_memory(count: int, image_shape: tuple[int, ...], name: str | Path) -> None:
    """Raises `UserError` for so many images that half of the memory would not hold them."""
    needed = count * math.prod(image_shape)
    if needed > budget():
        raise UserError(
            f"{name}: {count} images of {'x'.join(map(str, image_shape))} need "
            f"{needed / 1e9:.1f} GB, more than half of this machine's "
            f"{physical_memory() / 1e9:.1f} GB; use smaller or fewer images, or a smaller "
            "dataset.image_size"
        )


def budget() -> int:
    """Bytes that all images may take while they are decoded."""
    return physical_memory() // 2
