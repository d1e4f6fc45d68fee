"""How long the runs of a sweep will take, from how long comparable ones took."""

import heapq
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet.environment import device
from eanet.errors import UserError
from eanet.sweeps.records import RunRecord, read_run

_NO_KIND = ("dataset.data_dir", "init_from")  # where something lies
_MOST = 50  # runs beside a sweep
_FARTHEST = 4.0  # times the multiply-adds, in a comparable run


class RunSize(NamedTuple):
    """What a run holds and computes."""

    parameters: int
    multiply_adds: int  # of the model for one image
    images: int  # that training takes, each as often as it does
    evaluated: int = 0  # images that are evaluated, in all validations and at the end


class Pace(NamedTuple):
    """How fast a finished run was, in multiply-adds of the forward pass."""

    source: Path
    kind: str  # of the run, see `kind_of`
    multiply_adds: int  # for one image
    training: float  # a second on one device
    evaluation: float  # likewise
    rest: float  # seconds of all else: start, compilation, files; NaN where that is not recorded


def kind_of(config: ConfigDict) -> str:
    """All values of a config that are no numbers: runs that agree in them compute alike."""
    values = dict(config_lib.flatten(config_lib.filled(config)))
    chosen = {
        key: value
        for key, value in values.items()
        if type(value) not in (int, float) and key not in _NO_KIND
    }
    return json.dumps(chosen, sort_keys=True)


def paces(directory: Path, names: Iterable[str]) -> list[Pace]:
    """How fast the finished runs of a sweep were on devices such as here, then those beside it.

    Those of other sweeps beside it are among them; of all of these the newest are looked at.
    """
    own = [directory / name for name in names]
    places = (directory.parent.glob(f"{depth}/results_test.json") for depth in ("*", "*/*"))
    beside = [path for place in places for path in place if path.parent not in own]
    newest = sorted(beside, key=lambda path: path.stat().st_mtime, reverse=True)
    found = []
    for workdir in [*own, *(path.parent for path in newest[:_MOST])]:
        with suppress(UserError):  # no run of ours, or a damaged one: another will do
            pace = _pace(workdir, read_run(workdir))
            found += [pace] if pace else []
    return found


def _pace(workdir: Path, run: RunRecord) -> Pace | None:
    count, _, kind = run.results.get("device", "").partition(" × ")
    here = device().partition(" × ")[2]
    rate, macs = run.images_per_second, run.multiply_adds
    seconds, examples = (run.results.get(key) for key in ("evaluation_seconds", "num_examples"))
    if run.state != "done" or not run.config or kind != here or not count.isdigit():
        return None
    if not (0 < rate < math.inf and macs and seconds and examples and int(count)):
        return None
    whole, rest = run.results.get("run_seconds"), math.nan
    if whole is not None and run.data is not None:
        val = run.data.splits["val"].examples
        evaluated = (len(run.validations) + 1) * val + examples
        trained = run.step * run.config.batch_size / rate
        rest = max(0.0, whole - trained - evaluated * seconds / examples)
    each = macs / int(count)
    return Pace(workdir, kind_of(run.config), macs, rate * each, each * examples / seconds, rest)


def comparable(kind: str, size: RunSize, known: Sequence[Pace]) -> Pace | None:
    """The run of the same kind whose model costs most nearly as much; None without any.

    Its seconds of all else are the median over such runs, as the first of them alone compiles.
    """

    def distance(pace: Pace) -> float:
        return abs(math.log(pace.multiply_adds / size.multiply_adds))

    alike = [pace for pace in known if pace.kind == kind and size.multiply_adds]
    nearest = min(alike, key=distance, default=None)
    if nearest is None or distance(nearest) > math.log(_FARTHEST):
        return None
    rests = [pace.rest for pace in alike if math.isfinite(pace.rest)]
    return nearest._replace(rest=statistics.median(rests) if rests else math.nan)


def seconds_of(size: RunSize, pace: Pace, devices: float) -> float:
    """How long a run takes on so many devices, as if a MAC always took the same time."""
    training, evaluation = size.images / pace.training, size.evaluated / pace.evaluation
    rest = 0.0 if math.isnan(pace.rest) else pace.rest
    return rest + (training + evaluation) * size.multiply_adds / devices


def together(seconds: Iterable[float], workers: int) -> float:
    """How long runs take that so many workers take in their order, one whenever one is free."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def estimates(
    directory: Path,
    sizes: Mapping[str, RunSize],
    configs: Mapping[str, ConfigDict],
    devices: float,
) -> dict[str, tuple[float, Pace]]:
    """For each run that a comparable one is known of, its seconds and that one."""
    known = paces(directory, sizes)
    found = {}
    for name, size in sizes.items():
        if pace := comparable(kind_of(configs[name]), size, known):
            found[name] = seconds_of(size, pace, devices), pace
    return found
