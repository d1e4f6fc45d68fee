"""The files of a sweep: `sweep.json`, and beside it a directory for each run, a normal workdir."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eanet import config as config_lib
from eanet import files
from eanet.errors import UserError
from eanet.files import read_record
from eanet.workdir import log

# Made beside the run's own files where it ended without being complete.
_ENDED = "ended.json"

Record = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """What the files tell of one run.

    Attributes:
      name: of its directory.
      settings: the keys of the sweep with the run's values, as far as they are known.
      records: of `metrics.jsonl`.
      results: of `results_test.json`, empty without.
      ended: `state` and `reason` where the run ended early.
      num_epochs: that it is to train; NaN where it has not begun.
      parameters: of the model; None where unknown.
      multiply_adds: for one image, likewise.
    """

    name: str
    settings: Record
    records: list[Record] = field(default_factory=list)
    results: Record = field(default_factory=dict)
    ended: Record = field(default_factory=dict)
    num_epochs: float = math.nan
    parameters: int | None = None
    multiply_adds: int | None = None

    @property
    def state(self) -> str:
        """One of done, failed, pruned, unfinished, waiting."""
        if self.results and self.epoch >= self.num_epochs - 1e-5:
            return "done"
        return self.ended.get("state", "unfinished" if self.records else "waiting")

    @property
    def epoch(self) -> float:
        """How far the run has come."""
        return self.records[-1]["epoch"] if self.records else 0.0

    @property
    def best(self) -> Record | None:
        """The validation record of highest accuracy."""
        return log.best_validation(self.records)

    @property
    def val_accuracy(self) -> float:
        """The highest accuracy on validation, NaN without any."""
        return self.best["accuracy"] if self.best else math.nan

    @property
    def images_per_second(self) -> float:
        """The median over the reports of training, NaN without any."""
        reported = [record.get("images_per_second", math.nan) for record in self.records]
        rates = [rate for rate in reported if math.isfinite(rate)]
        return statistics.median(rates) if rates else math.nan


@dataclass(frozen=True)
class SweepRecord:
    """What the files tell of a sweep.

    Attributes:
      name: of its directory.
      keys: that it varies.
      runs: those planned, then others that lie in the directory.
    """

    name: str
    keys: tuple[str, ...]
    runs: tuple[RunRecord, ...]


def write_sweep(directory: Path, keys: Sequence[str], runs: Sequence[Record]) -> None:
    """Writes `sweep.json`.

    Args:
      directory: of the sweep, must exist.
      keys: that it varies.
      runs: for each its name, and settings, parameters, multiply_adds as far as known.
    """
    record = {"keys": list(keys), "runs": list(runs)}
    files.write_atomically(directory / "sweep.json", files.strict_json(record, indent=1))


def read_sweep(directory: Path) -> SweepRecord:
    """Reads the files of a sweep, in the middle of it too.

    Raises:
      UserError: the directory is not that of a sweep, or one of its files is damaged.
    """
    record = read_record(directory / "sweep.json")
    if record is None:
        raise UserError(f"there is no sweep.json in {directory}: give the directory of a sweep")
    try:
        keys = tuple(record["keys"])
        planned = {run["name"]: run for run in record["runs"]}
    except (KeyError, TypeError):
        raise UserError(
            f"{directory / 'sweep.json'} is damaged; start the sweep's command again to mend it"
        ) from None
    others = sorted(path.parent.name for path in directory.glob("*/config.json"))
    names = dict.fromkeys([*planned, *others])
    runs = tuple(read_run(directory / name, keys, planned.get(name, {})) for name in names)
    return SweepRecord(directory.resolve().name, keys, runs)


def read_run(workdir: Path, keys: Sequence[str] = (), planned: Record | None = None) -> RunRecord:
    """Reads the files of one run.

    Args:
      workdir: of the run, need not exist.
      keys: to take out of its config.
      planned: what `sweep.json` says of it.
    """
    planned = planned or {}
    settings, num_epochs = dict(planned.get("settings", {})), math.nan
    if (workdir / "config.json").exists():
        config = dict(config_lib.flatten(config_lib.from_json(workdir / "config.json")))
        settings = {key: config[key] for key in keys if key in config}
        num_epochs = config["num_epochs"]
    metrics = workdir / "metrics.jsonl"
    results = read_record(workdir / "results_test.json") or {}
    return RunRecord(
        name=workdir.name,
        settings=settings,
        records=log.read(metrics) if metrics.exists() else [],
        results=results,
        ended=read_record(workdir / _ENDED) or {},
        num_epochs=num_epochs,
        parameters=results.get("parameters", planned.get("parameters")),
        multiply_adds=results.get("multiply_adds_per_image", planned.get("multiply_adds")),
    )


def write_ended(workdir: Path, state: str, reason: str) -> None:
    """Records that a run ended early, and why."""
    workdir.mkdir(parents=True, exist_ok=True)
    record = {"state": state, "reason": reason}
    files.write_atomically(workdir / _ENDED, files.strict_json(record))


def forget_ended(workdir: Path) -> None:
    """Takes back `write_ended`, as the run goes on."""
    (workdir / _ENDED).unlink(missing_ok=True)
