"""How many images each class has, in a line or two."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from eanet.data.load import Dataset

_FEW = 32  # classes that are all named
_MISSING = 5  # names of classes without images


def counts_line(
    class_names: Sequence[str], labels: np.ndarray, weights: np.ndarray | None = None
) -> str:
    """Of the training labels `int[N]`, and the weights of the classes where the loss has some."""
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() == counts.max():
        said = f"{counts[0]:,} training images each"
    elif len(class_names) <= _FEW:
        by_count = np.argsort(-counts, kind="stable")
        said = ", ".join(f"{class_names[c]}: {counts[c]:,}" for c in by_count)
    else:
        ends = int(counts.argmin()), int(counts.argmax())
        least, most = (f"{counts[c]:,} ({class_names[c]})" for c in ends)
        said = f"smallest {least}, median {np.median(counts):,g}, largest {most}"
    if weights is not None:
        used = weights[counts > 0]
        said += f"; weights of the loss {used.min():.3g} to {used.max():.3g}"
    return said


def missing_lines(dataset: "Dataset", val_split: str) -> Iterator[str]:
    """Which classes have no image in a split that has some, of a config's `dataset.val_split`."""
    splits = {"training": dataset.train, "validation": dataset.val, "test": dataset.test}
    for what, split in splits.items():
        line = _missing_line(dataset.class_names, split.labels, what) if len(split) else None
        if line and split is dataset.val and val_split == "last" and dataset.holds_out:
            line += "; dataset.val_split=random takes some of each class"
        if line:
            yield line


def _missing_line(class_names: Sequence[str], labels: np.ndarray, split: str) -> str | None:
    missing = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if not len(missing):
        return None
    names = ", ".join(class_names[c] for c in missing[:_MISSING])
    more = f" and {len(missing) - _MISSING:,} more" if len(missing) > _MISSING else ""
    number = "class has" if len(missing) == 1 else "classes have"
    return f"{len(missing):,} {number} no {split} images: {names}{more}"
