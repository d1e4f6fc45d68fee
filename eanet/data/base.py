"""What every source of images hands over, whatever it reads from."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eanet.errors import UserError
from eanet.host import physical_memory


@dataclass(frozen=True)
class Split:
    """Images `uint8[N, H, W, C]` with their labels `int32[N]`."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Decoded:
    """A decoded dataset: `train`, `test` and, where the source has its own, `val`."""

    splits: dict[str, Split]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from.

    Attributes:
        name: for messages and file names.
        identity: which source it is; stays the same while its content may change.
        fingerprint: changes whenever the content does.
        read: decodes everything; seconds to minutes.
    """

    name: str
    identity: str
    fingerprint: str
    read: Callable[[], Decoded]


def fingerprint(files: Iterable[tuple[str, os.stat_result]]) -> str:
    """A digest over the names, sizes and modification times of files."""
    lines = sorted(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}" for name, stat in files)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def empty_images(count: int, image_shape: tuple[int, ...], name: str | Path) -> np.ndarray:
    """Room for `uint8[count, H, W, C]`, refused where half of the memory would not hold it.

    Raises:
        UserError: training keeps all images in memory, so this dataset is too big.
    """
    needed = count * int(np.prod(image_shape, dtype=object))
    available = physical_memory()
    if needed > available // 2:
        raise UserError(
            f"{name}: {count} images of {'x'.join(map(str, image_shape))} need "
            f"{needed / 1e9:.1f} GB, more than half of this machine's {available / 1e9:.1f} GB; "
            "use smaller or fewer images"
        )
    return np.empty((count, *image_shape), np.uint8)
