"""How long the runs of a sweep will take, from how fast others went."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eanet.errors import UserError
from eanet.sweeps.records import RunRecord, read_run


@dataclass(frozen=True)
class RunSize:
    """What a run holds and computes.

    Attributes:
      parameters: of the model.
      multiply_adds: of the model for one image.
      images: that training takes, each as often as it does.
    """

    parameters: int
    multiply_adds: int
    images: int


@dataclass(frozen=True)
class Rate:
    """A measured speed of training.

    Attributes:
      multiply_adds_per_second: of the forward pass, while training.
      source: where it was measured.
    """

    multiply_adds_per_second: float
    source: str

    def seconds(self, size: RunSize) -> float:
        """Of training alone, as if a multiply-add took the same time in every model."""
        return size.images * size.multiply_adds / self.multiply_adds_per_second


def measured_rate(directory: Path, sizes: Mapping[str, RunSize]) -> Rate | None:
    """The median speed of the runs of a sweep, else that of the newest run beside it.

    Args:
      directory: of the sweep, need not exist.
      sizes: of its runs, by name.
    """
    own = [
        run.images_per_second * size.multiply_adds
        for name, size in sizes.items()
        if math.isfinite((run := read_run(directory / name)).images_per_second)
    ]
    if own:
        return Rate(statistics.median(own), f"{len(own)} runs of this sweep")
    beside = directory.parent.glob("*/results_test.json")
    for path in sorted(beside, key=lambda path: path.stat().st_mtime, reverse=True):
        found = _read(path.parent)
        if found and found.multiply_adds and math.isfinite(found.images_per_second):
            return Rate(found.images_per_second * found.multiply_adds, str(path.parent))
    return None


def _read(workdir: Path) -> RunRecord | None:
    try:
        return read_run(workdir)
    except UserError:  # no run of ours, or a damaged one: another will do
        return None
