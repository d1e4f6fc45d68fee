"""What a sweep's runs say together: means over seeds, the best setting, paired differences."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from eanet.display.numbers import Summary, summary
from eanet.sweeps.keys import KNOWN, shown_values
from eanet.sweeps.records import RunRecord, SweepRecord
from eanet.workdir.seeds import NO_SETTING, SEED


class Setting(NamedTuple):
    """The runs of one config but for the seed."""

    values: dict[str, Any]  # of the keys that tell the settings apart
    changed: tuple[str, ...] | None  # those that differ from the baseline; None where there is none
    runs: list[RunRecord]  # all of them, finished or not
    done: list[RunRecord]  # those that count
    validation: Summary  # of the highest validation accuracy of each of these
    test: Summary  # of the test accuracy of the best checkpoint of each of these

    @property
    def name(self) -> str:
        """The values in one line; beside a baseline, those that differ from it."""
        if self.changed == ():
            return "baseline"
        return shown_values(self.values, self.changed) or "all runs"


def varied_keys(sweep: SweepRecord) -> list[str]:
    """The keys that tell the settings apart: all that differ between runs, but the seed.

    One that follows others by reference is left out where these tell enough.
    """
    runs = [run.settings for run in sweep.runs]
    everything = [*sweep.keys, *(key for run in runs for key in run if key not in sweep.follow)]
    keys: list[str] = []
    for key in dict.fromkeys([*everything, *sweep.follow]):
        groups: dict[tuple[Any, ...], set[Any]] = {}
        for run in runs:
            if key in run and key not in NO_SETTING:
                alike = tuple(run.get(other) for other in keys) if key in sweep.follow else ()
                groups.setdefault(alike, set()).add(run[key])
        if any(len(values) > 1 for values in groups.values()):
            keys.append(key)
    return keys


def numeric_keys(settings: Sequence[Setting]) -> list[str]:
    """The varied keys whose values are numbers, those of most interest first."""
    numeric = [
        key
        for key in (settings[0].values if settings else ())
        if all(type(setting.values[key]) in (int, float) for setting in settings)
        and len({setting.values[key] for setting in settings}) > 1
    ]
    return list(dict.fromkeys(key for key in (*KNOWN, *numeric) if key in numeric))


def settings(sweep: SweepRecord) -> list[Setting]:
    """The settings in the order of their first runs; runs of an unknown setting are left out."""
    keys = varied_keys(sweep)
    grouped: dict[tuple[Any, ...], list[RunRecord]] = {}
    for run in sweep.runs:
        if all(key in run.settings for key in keys):
            grouped.setdefault(tuple(run.settings[key] for key in keys), []).append(run)
    found = []
    named = [dict(zip(keys, values, strict=True)) for values in grouped]
    around = None if sweep.space else _baseline(named)
    for values, runs in zip(named, grouped.values(), strict=True):
        done = [run for run in runs if run.state == "done"]
        tested = [run.test["accuracy"] for run in done if run.test.get("accuracy") is not None]
        validation = summary([run.val_accuracy for run in done])
        changed = None if around is None else tuple(_changed(values, around))
        found.append(Setting(values, changed, runs, done, validation, summary(tested)))
    return found


def baseline(found: Sequence[Setting]) -> Setting | None:
    """The setting that all others change in one respect, as in an ablation; None without one."""
    return next((each for each in found if each.changed == ()), None)


def _baseline(settings: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The values that all other settings change, in two or more respects that share no key.

    In a grid there are none: some settings change one key, and others that one and another.
    """
    for values in settings:
        respects = {frozenset(_changed(each, values)) for each in settings} - {frozenset()}
        if len(respects) > 1 and sum(map(len, respects)) == len(frozenset().union(*respects)):
            return values
    return None


def _changed(values: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    return [key for key in values if values[key] != baseline[key]]


def leaders(found: Sequence[Setting]) -> list[Setting]:
    """The settings of highest mean validation accuracy among those with most finished runs.

    Several where they are equal, none while no run has finished. A mean over fewer seeds is more
    often high by luck.
    """
    most = max((setting.validation.count for setting in found), default=0)
    finished = [setting for setting in found if most and setting.validation.count == most]
    highest = max((setting.validation.mean for setting in finished), default=math.nan)
    return [each for each in finished if math.isclose(each.validation.mean, highest)]


def best(found: Sequence[Setting]) -> Setting | None:
    """The one setting that leads; None where several do, or none does."""
    first = leaders(found)
    return first[0] if len(first) == 1 else None


def unsure_by_seeds(found: Sequence[Setting], compared: Setting) -> list[Setting]:
    """The settings whose paired difference to another one may be 0, by its 95 % interval.

    One that shares fewer than two seeds with it is among them.
    """
    others = [each for each in found if each is not compared]
    differences = [(each, paired_difference(each, compared)) for each in others]
    return [
        each
        for each, difference in differences
        if each.validation.count and not abs(difference.mean) > difference.margin
    ]


def unsure_by_images(found: Sequence[Setting], compared: Setting, images: int) -> list[Setting]:
    """The settings that other images than so many of validation might order otherwise with one.

    Each accuracy p over n images has the variance p (1 − p) / n of a binomial share; the difference
    of two is looked at with its 95 % interval, as if they were independent.
    """

    def variance(setting: Setting) -> float:
        return setting.validation.mean * (1 - setting.validation.mean) / images

    return [
        each
        for each in found
        if each is not compared
        and each.validation.count
        and abs(compared.validation.mean - each.validation.mean)
        <= 1.96 * math.sqrt(variance(each) + variance(compared))
    ]


def paired_difference(one: Setting, other: Setting) -> Summary:
    """Of the validation accuracies of the seeds that have finished in both: `one` − `other`."""
    ours = {run.settings.get(SEED): run.val_accuracy for run in one.done}
    theirs = {run.settings.get(SEED): run.val_accuracy for run in other.done}
    return summary([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points (cost, gain) that none beats in both, by rising cost."""
    front: list[int] = []
    for index, (_, gain) in sorted(enumerate(points), key=lambda each: (each[1][0], -each[1][1])):
        if not front or gain > points[front[-1]][1]:
            front.append(index)
    return front
