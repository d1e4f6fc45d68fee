"""What every source of images hands over, whatever it reads from."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eanet.data import resize as resize_lib
from eanet.errors import UserError
from eanet.host import physical_memory

# Called with a line of text where something takes long or needs to be known.
Log = Callable[[str], object]
MaybePath = str | os.PathLike[str] | None


# Where one example is stored: a path, and what else it takes to find it there.
Reference = Sequence[Any]


class TooLarge(UserError):
    """Images that this machine's memory would not hold."""


class Images(Protocol):
    """`uint8[N, H, W, C]`, an array or what stands for one; `np.asarray` makes it an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        ...

    @property
    def nbytes(self) -> int:
        """As of an array."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Any, /) -> Any: ...


@dataclass(frozen=True)
class Split:
    """Images `uint8[N, H, W, C]` with their labels `int32[N]`."""

    images: Any  # `Images`
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
    tested_on: str = "test"  # what the source calls its split that is `test`


@dataclass(frozen=True)
class Recipe:
    """How the examples of a source become pixels, one by one; see `eanet.data.reading`."""

    form: str  # of what they are stored in
    image_shape: tuple[int, int, int]  # of all of them
    class_names: tuple[str, ...]
    bits: int | None = None  # of the values of 16-bit images, see `eanet.data.images`
    resize: str | None = None  # of images of another size; None where there are none
    largest: tuple[int, int] = (0, 0)  # height and width of the largest image as it is stored
    larger: bool = False  # whether there may be larger ones, of which one is decoded at a time

    def __post_init__(self) -> None:
        for name in ("image_shape", "class_names", "largest"):  # of which JSON makes lists
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def memory(self, budget: int) -> int:
        """Of so many bytes, those for images that are decoded at once; the rest is for a larger."""
        return budget // 2 if self.larger else budget


@dataclass(frozen=True)
class Storage:
    """How the examples of a source are read one by one."""

    # By part, where each example is, in their order; takes no longer than to list the files.
    references: Callable[[], Mapping[str, Sequence[Reference]]]
    # The recipe, and notes as of `Decoded`; may look at every image.
    recipe: Callable[[], tuple[Recipe, tuple[str, ...]]]
    # What becomes of these parts, where some of them are divided further.
    divide: Callable[[dict[str, Split]], dict[str, Split]] = dict
    skips_bad: bool = False  # whether examples that cannot be read are left out


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from."""

    name: str  # for messages and file names
    identity: str  # which source it is; stays the same while its content may change
    fingerprint: str  # changes whenever the content does
    read: Callable[[], Decoded]  # decodes everything; seconds to minutes
    place: str | None = None  # absolute path of what is read; None where that is always the same
    storage: Storage | None = None  # None where it can only be read as a whole
    notes: tuple[str, ...] = ()  # what a person should know at every start
    tested_on: str = "test"  # what it calls its split that is `test`


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
    streaming: bool | None = None  # whether images stay in their files; None where memory decides
    # Whether validation is known to be held out from train: folders that were not read as the
    # validation split before are not read now.
    holds_out: bool = False


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
    survey = getattr(split.images, "survey", None)
    digests = (
        list(map(bytes, survey["digest"]))
        if survey is not None
        else [
            example_digest(image, class_names[label])
            for image, label in zip(split.images, split.labels.tolist(), strict=True)
        ]
    )
    return sha256(b"".join(digests if ordered else sorted(digests))).hexdigest()[:32]


def example_digest(image: np.ndarray, class_name: str) -> bytes:
    """A digest over shape, pixels and class name of one example."""
    state = sha256(f"{image.shape}\0{class_name}\0".encode("utf-8", "surrogatepass"))
    state.update(np.ascontiguousarray(image).data)
    return state.digest()


def empty_images(count: int, image_shape: tuple[int, ...], name: str | Path) -> np.ndarray:
    """Room for `uint8[count, H, W, C]`; raises as `check_memory` does."""
    check_memory(count, image_shape, name)
    return np.empty((count, *image_shape), np.uint8)


def check_memory(count: int, image_shape: tuple[int, ...], name: str | Path) -> None:
    """Raises `TooLarge` for so many images that half of the memory would not hold them."""
    needed = count * math.prod(image_shape)
    if needed > budget():
        raise TooLarge(
            f"{name}: {count} images of {'x'.join(map(str, image_shape))} need "
            f"{needed / 1e9:.1f} GB, more than half of this machine's "
            f"{physical_memory() / 1e9:.1f} GB; use smaller or fewer images, or a smaller "
            "dataset.image_size"
        )


def budget() -> int:
    """Bytes that all images may take while they are decoded."""
    return physical_memory() // 2
