"""The files of a sweep: `sweep.json`, and beside it a directory for each run, a normal workdir."""

import datetime
import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import files
from eanet.checkpoints.layout import CheckpointFiles
from eanet.errors import UserError
from eanet.rules import Choice, Number, OrNothing, Rule, Such, Text
from eanet.sweeps.spec import Between, OneOf, Space, space_as_record, space_of_record
from eanet.workdir import log, model_record
from eanet.workdir.model_record import DataRecord
from eanet.workdir.results import read_results

# Made beside the run's own files where it ended without being complete.
_ENDED = "ended.json"
EARLY = ("failed", "pruned")

Record = dict[str, Any]


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _is_planned_run(value: Any) -> bool:
    count = OrNothing(Number(0, 2**63 - 1, whole=True))
    return (
        isinstance(value, dict)
        and isinstance(name := value.get("name"), str)
        and os.path.basename(name) == name not in ("", ".", "..")  # leads nowhere else
        and "\0" not in name
        and len(os.fsencode(name)) <= 255
        and isinstance(settings := value.get("settings", {}), dict)
        and all(map(_is_scalar, settings.values()))
        and all(count.allows(value.get(key)) for key in ("parameters", "multiply_adds"))
    )


def _is_space(value: Any) -> bool:
    try:
        space = space_of_record(value)
    except (TypeError, AttributeError):
        return False
    return bool(space) and all(map(_can_be_searched, space.values()))


def _can_be_searched(values: Between | OneOf) -> bool:
    if isinstance(values, OneOf):
        return bool(values.values) and all(map(_is_scalar, values.values))
    return (
        all(map(Number(-1e300, 1e300).allows, values.values))
        and values.low <= values.high
        and isinstance(values.log, bool)
        and not (values.log and values.low <= 0)
    )


def _list_of(text: str, test: Callable[[Any], bool]) -> Rule:
    return Such(text, lambda value: isinstance(value, list) and all(map(test, value)))


_KEYS = _list_of("a list of keys", Text().allows)
_SWEEP: dict[str, Rule] = {
    "keys": _KEYS,
    "follow": OrNothing(_KEYS),
    "runs": _list_of("a list of name, settings, parameters, multiply_adds", _is_planned_run),
    "command": OrNothing(Text()),
    "date": OrNothing(Text()),
    "space": OrNothing(Such("the values of each key that is searched", _is_space)),
}
_END: dict[str, Rule] = {"state": Choice(*EARLY), "reason": Text()}
_LATENCY: dict[str, Rule] = {
    "device": Text(),
    "models": Such(
        "milliseconds by model",
        lambda value: isinstance(value, dict) and all(map(Number(0, 1e9).allows, value.values())),
    ),
}


class RunRecord(NamedTuple):
    """What the files tell of one run."""

    name: str  # of its directory
    state: str  # one of done, failed, pruned, unfinished, waiting
    reason: str  # why it failed or was pruned
    settings: Record  # values of all keys of its config, as far as they are known
    config: ConfigDict | None  # None where it has not begun
    num_epochs: float  # that it is to train; NaN where it has not begun
    step: int  # how far it has come
    epoch: float  # the same in epochs
    images_per_second: float  # the median over the reports of training, NaN without any
    validations: list[Record]  # the records of validation that have an accuracy
    best: Record | None  # that of highest accuracy
    val_accuracy: float  # its accuracy, NaN without any
    results: Record  # of `results_test.json`, empty without
    test: Record  # the same, but empty for another checkpoint than the best
    parameters: int | None  # of the model; None where unknown
    multiply_adds: int | None  # for one image, likewise
    latency: float | None  # milliseconds for one image, likewise
    data: DataRecord | None  # that it is trained on; None where it has not begun


class SweepRecord(NamedTuple):
    """What the files tell of a sweep."""

    name: str  # of its directory
    keys: tuple[str, ...]  # that it varies
    follow: tuple[str, ...]  # keys that change with them, as they refer to them
    runs: tuple[RunRecord, ...]  # those planned, then others that lie in the directory
    latency: Record  # see `eanet.sweeps.latency.measure`, empty where it was not measured
    space: Space | None  # that is searched; None for a sweep
    command: str  # that was started last; empty where it is not recorded
    date: str  # of that start, as YYYY-MM-DD; likewise


def write_sweep(
    directory: Path,
    keys: Sequence[str],
    runs: Sequence[Record],
    follow: Sequence[str] = (),
    *,
    space: Space | None = None,
    command: str = "",
) -> None:
    """Writes `sweep.json`: for each run its name, and settings and size as far as known."""
    record = {
        "keys": list(keys),
        "follow": list(follow),
        "runs": list(runs),
        "space": space_as_record(space) if space else None,
        "command": command,
        "date": datetime.date.today().isoformat(),
    }
    files.write_record(directory / "sweep.json", record)


def read_sweep(directory: Path) -> SweepRecord:
    """Reads the files of a sweep, in the middle of it too.

    Raises:
      UserError: the directory is not that of a sweep, or one of its files is damaged.
    """
    advice = "start the sweep's command again to mend it"
    record = files.read_record(directory / "sweep.json", advice, _SWEEP)
    if record is None:
        raise UserError(f"there is no sweep.json in {directory}: give the directory of a sweep")
    planned = {run["name"]: run for run in record["runs"]}
    others = sorted(path.parent.name for path in directory.glob("*/config.json"))
    names = dict.fromkeys([*planned, *others])
    latency = files.read_record(directory / "latency.json", "remove it", _LATENCY) or {}
    models = latency.get("models", {})
    runs = tuple(read_run(directory / name, planned.get(name), models) for name in names)
    space = record.get("space")
    return SweepRecord(
        name=directory.resolve().name,
        keys=tuple(record["keys"]),
        follow=tuple(record.get("follow") or ()),
        runs=runs,
        latency=latency,
        space=space_of_record(space) if space else None,
        command=record.get("command") or "",
        date=record.get("date") or "",
    )


def read_run(
    workdir: Path, planned: Record | None = None, latencies: Record | None = None
) -> RunRecord:
    """Reads the files of one run, which need not be there; a damaged one is a `UserError`.

    What `sweep.json` says of it as planned, and `latency.json` of the models, is taken up.
    """
    planned = planned or {}
    settings, config = planned.get("settings", {}), None
    path, metrics = workdir / "config.json", workdir / "metrics.jsonl"
    if path.exists():
        config = config_lib.from_json(path)
        settings = dict(config_lib.flatten(config))
        needed: dict[str, Rule] = {"num_epochs": Number(0, 1e6), "dataset.name": Text()}
        wrong = [key for key, rule in needed.items() if not rule.allows(settings.get(key))]
        wrong += [key for key, value in settings.items() if not _is_scalar(value)]
        if wrong:
            raise UserError(f"{path} is not the config of a run: see {wrong[0]} there")
    described = model_record.read(workdir)
    results = read_results(workdir, "test") or {}
    if saved := CheckpointFiles(workdir / "checkpoints").survey()[0]:
        log.refuse_changed(metrics, saved[max(saved)].history)
    lines = log.read(metrics) if metrics.exists() else []
    ended = files.read_record(workdir / _ENDED, "remove it", _END) or {}
    num_epochs = config.num_epochs if config else math.nan
    last: Record = lines[-1] if lines else {"step": 0, "epoch": 0.0}
    if results and last["epoch"] >= num_epochs - 1e-5:
        ended = {"state": "done"}
    rates = [line.get("images_per_second", math.nan) for line in lines]
    rates = [rate for rate in rates if math.isfinite(rate)]
    best = log.best_validation(lines)
    return RunRecord(
        name=workdir.name,
        state=ended.get("state", "unfinished" if lines else "waiting"),
        reason=ended.get("reason", ""),
        settings=settings,
        config=config,
        num_epochs=num_epochs,
        step=last["step"],
        epoch=last["epoch"],
        images_per_second=statistics.median(rates) if rates else math.nan,
        validations=log.validations(lines),
        best=best,
        val_accuracy=best["accuracy"] if best else math.nan,
        results=results,
        test=results if log.is_of_best(results, lines) else {},
        parameters=results.get("parameters", planned.get("parameters")),
        multiply_adds=results.get("multiply_adds_per_image", planned.get("multiply_adds")),
        latency=latencies.get(model_key(config)) if config and latencies else None,
        data=described.data if described else None,
    )


def glance(workdir: Path) -> RunRecord | None:
    """`read_run` while others work; None where files are damaged, which is for its end to tell."""
    try:
        return read_run(workdir)
    except UserError:
        return None


def model_key(config: ConfigDict) -> str:
    """What the time of an image depends on: the model and the kind of image."""
    values = config_lib.lasting(config)
    of_training = ("dropout_rate", "stochastic_depth")
    model = {name: value for name, value in values["model"].items() if name not in of_training}
    return json.dumps({"dataset": values["dataset"]["name"], **model}, sort_keys=True)


def write_ended(workdir: Path, state: str, reason: str) -> None:
    """Records that a run ended early, one of `EARLY`, and why; may raise `OSError`."""
    workdir.mkdir(parents=True, exist_ok=True)
    record = files.sealed({"state": state, "reason": reason.replace("\0", " ")})
    files.write_atomically(workdir / _ENDED, files.strict_json(record))


def forget_ended(workdir: Path) -> None:
    """Takes back `write_ended`, as the run goes on."""
    (workdir / _ENDED).unlink(missing_ok=True)
