"""How long the runs of a sweep will take, from how fast others went."""

import math
import statistics
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eanet.errors import UserError
from eanet.sweeps.records import read_run


class RunSize(NamedTuple):
    """What a run holds and computes."""

    parameters: int
    multiply_adds: int  # of the model for one image
    images: int  # that training takes, each as often as it does


def measured_rate(directory: Path, sizes: Mapping[str, RunSize]) -> tuple[float, str] | None:
    """The median speed of the runs of a sweep, else that of the newest run beside it.

    Returns:
      Multiply-adds of the forward pass a second, while training, and where that was measured.
    """
    own = [
        read_run(directory / name).images_per_second * size.multiply_adds
        for name, size in sizes.items()
    ]
    own = [rate for rate in own if 0 < rate < math.inf]
    if own:
        return statistics.median(own), f"{len(own)} runs of this sweep"
    beside = directory.parent.glob("*/results_test.json")
    for path in sorted(beside, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(UserError):  # no run of ours, or a damaged one: another will do
            found = read_run(path.parent)
            rate = found.images_per_second * (found.multiply_adds or math.nan)
            if 0 < rate < math.inf:
                return rate, str(path.parent)
    return None
