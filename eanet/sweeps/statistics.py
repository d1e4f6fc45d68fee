"""What a sweep's runs say together: means over seeds, the best setting, paired differences."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eanet.sweeps.records import RunRecord, SweepRecord

SEED = "seed"

# What a person asks about first; a sweep without them is shown by its own first keys.
_FIRST = ("model.memory_size", "model.embed_dim")
_NAMES = {"model.memory_size": "S, memory units", "model.embed_dim": "d, width of a token"}


@dataclass(frozen=True)
class Summary:
    """A mean.

    Attributes:
      mean: of the values; NaN without any.
      std: their standard deviation, of a sample; NaN below two.
      count: of the values.
    """

    mean: float
    std: float
    count: int


@dataclass(frozen=True)
class Setting:
    """The runs that differ in their seed alone.

    Attributes:
      values: of the keys that differ within the sweep, but the seed.
      runs: all of them, finished or not.
    """

    values: dict[str, Any]
    runs: tuple[RunRecord, ...]

    @property
    def done(self) -> list[RunRecord]:
        """The runs that count."""
        return [run for run in self.runs if run.state == "done"]

    @property
    def validation(self) -> Summary:
        """Of the highest validation accuracy of each finished run."""
        return summary([run.val_accuracy for run in self.done])

    @property
    def test(self) -> Summary:
        """Of the test accuracy of each finished run."""
        return summary([run.results["accuracy"] for run in self.done])

    @property
    def name(self) -> str:
        """The values in one line."""
        return ", ".join(map(shown_value, self.values.values())) or "all runs"

    def count(self, state: str) -> int:
        """How many of its runs are in this state."""
        return sum(run.state == state for run in self.runs)


def shown_value(value: Any) -> str:
    """A value of a setting for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def summary(values: Sequence[float]) -> Summary:
    """The mean of some values."""
    finite = [value for value in values if math.isfinite(value)]
    return Summary(
        statistics.fmean(finite) if finite else math.nan,
        statistics.stdev(finite) if len(finite) > 1 else math.nan,
        len(finite),
    )


def varied_keys(sweep: SweepRecord) -> list[str]:
    """The keys, but the seed, of which some runs have different values."""
    return [
        key
        for key in sweep.keys
        if key != SEED and len({run.settings[key] for run in sweep.runs if key in run.settings}) > 1
    ]


def numeric_keys(settings: Sequence[Setting]) -> list[str]:
    """The varied keys whose values are numbers, those of most interest first."""
    if not settings:
        return []
    numeric = [
        key
        for key in settings[0].values
        if all(type(setting.values[key]) in (int, float) for setting in settings)
        and len({setting.values[key] for setting in settings}) > 1
    ]
    return sorted(numeric, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))


def key_name(key: str) -> str:
    """A key for people."""
    return _NAMES.get(key, key)


def settings(sweep: SweepRecord) -> list[Setting]:
    """The settings in the order of their first runs; runs of an unknown setting are left out."""
    keys = varied_keys(sweep)
    grouped: dict[tuple[Any, ...], list[RunRecord]] = {}
    for run in sweep.runs:
        if all(key in run.settings for key in keys):
            grouped.setdefault(tuple(run.settings[key] for key in keys), []).append(run)
    return [
        Setting(dict(zip(keys, values, strict=True)), tuple(runs))
        for values, runs in grouped.items()
    ]


def best(found: Sequence[Setting]) -> Setting | None:
    """The setting of highest mean validation accuracy among those with most finished runs.

    None while no run has finished. A mean over fewer seeds is more often high by luck.
    """
    most = max((setting.validation.count for setting in found), default=0)
    finished = [setting for setting in found if most and setting.validation.count == most]
    return max(finished, key=lambda setting: setting.validation.mean, default=None)


def paired_difference(one: Setting, other: Setting) -> Summary:
    """Of the validation accuracies of the seeds that have finished in both: `one` − `other`."""
    ours, theirs = (
        {run.settings.get(SEED): run.val_accuracy for run in setting.done}
        for setting in (one, other)
    )
    return summary([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points (cost, gain) that none beats in both, by rising cost."""
    front: list[int] = []
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front
