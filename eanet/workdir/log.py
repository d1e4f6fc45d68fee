"""The record of a run: `metrics.jsonl`, and the same scalars for TensorBoard.

One JSON object a line, strict JSON: a value that is not finite is written as `null`
(JSON has no NaN) and read back as NaN. The file only grows while training runs; it is
rewritten, atomically, only on opening, to bring it back to the step where training stands.
"""

import errno
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eanet.errors import UserError
from eanet.files import (
    cannot_write,
    free_name,
    open_regular,
    read_bytes,
    strict_json,
    sync,
    write_atomically,
)
from eanet.workdir.tensorboard import EventFile

Say = Callable[[str], object]
Record = dict[str, Any]
Records = dict[tuple[int, str], Record]  # by step and split, in the order of the lines

_MOST = 2**31
_ADVICE = "make room or choose another --workdir, then start the same command again to go on"


class RunLog:
    """`metrics.jsonl` and `tensorboard/` of one working directory, open for writing.

    A resumed run neither repeats nor loses a line provided that the lines of a step are
    written before the checkpoint of that step is saved.

    Args:
      workdir: Made where missing.
      step: Where training stands. Lines of later steps are removed: they will be taken again.
      history: `text()` at that step; lines of it that are missing or changed come back.
      say: Told, one line each, what was removed from the file or restored, and why.

    Raises:
      UserError: The file cannot be read or written.
    """

    def __init__(self, workdir: str | Path, *, step: int, history: str = "", say: Say = print):
        workdir = Path(workdir)
        self.path = workdir / "metrics.jsonl"
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self._records = _bring_back(self.path, step, _parse(history.encode()), say)
            descriptor = open_regular(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            self._file = os.fdopen(descriptor, "ab", buffering=0)
            sync(workdir)
        except OSError as error:
            raise cannot_write(self.path, error, _ADVICE) from error
        self._events = EventFile(workdir / "tensorboard", purge_step=step + 1)

    def write(self, step: int, epoch: float, split: str, **metrics: Any) -> None:
        """Records the metrics of one split at one step, safe on disk on return.

        A step and split that stand in the file already are not written again. `epoch` is `step` in
        epochs; metrics are scalars of Python, NumPy or JAX: loss, accuracy, top5_accuracy, …

        Raises:
          UserError: Disk full, or the file is no longer writable; no part of the line stays.
        """
        step = int(step)
        if self.has(step, split):
            return
        scalars = {k: int(x) if isinstance(x, int) else float(x) for k, x in metrics.items()}
        record = {"step": step, "epoch": float(epoch), "split": split, **scalars}
        try:
            _append(self._file, strict_json(record))
            self._records[step, split] = record
            self._events.write(step, {f"{split}/{name}": value for name, value in scalars.items()})
        except OSError as error:
            raise cannot_write(self.path, error, _ADVICE) from error

    def has(self, step: int, split: str) -> bool:
        """Whether the metrics of a split at a step are recorded."""
        return (step, split) in self._records

    def get(self, step: int, split: str) -> Record:
        """That record; empty where there is none."""
        return self._records.get((step, split), {})

    def lines(self) -> list[tuple[int, str]]:
        """Of which steps and splits the metrics are recorded."""
        return list(self._records)

    def text(self) -> str:
        """All lines by now, also where somebody has removed the file."""
        return _as_written(self._records).decode()

    def close(self) -> None:
        """Closes the files; writing afterwards is an error."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read(path: str | Path) -> list[Record]:
    """Reads `metrics.jsonl` in the order written, with NaN for `null`.

    Lines that are no record, such as a torn last one, and repeated ones are left out.

    Raises:
      UserError: The file is missing or cannot be read.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror or error}; is --workdir that of a started run?"
        ) from error
    return list(_parse(data).values())


def parse(text: str) -> list[Record]:
    """The records of a text as `read` gives those of a file."""
    return list(_parse(text.encode()).values())


def refuse_changed(path: str | Path, history: str) -> None:
    """Raises `UserError` where the file is not what a run has logged.

    The history is that of its newest checkpoint; where the file lacks a line of it, or has another
    one in its place, somebody has changed it.
    """
    kept = _parse(history.encode())
    found = _parse(read_bytes(path)) if os.path.exists(path) else {}
    changed = [
        key for key, record in kept.items()
        if strict_json(record) != strict_json(found.get(key, {}))
    ]  # fmt: skip
    if changed:
        step, split = changed[0]
        raise UserError(
            f"{path} is not what the run has logged: {len(changed):,} of its "
            f"lines, such as {split} at step {step:,}, lack or differ; "
            "start the run's command, which restores them"
        )


def validations(records: Iterable[Record]) -> list[Record]:
    """The records of validation that have an accuracy."""
    return [r for r in records if r["split"] == "val" and 0 <= r.get("accuracy", math.nan) <= 1]


def best_validation(records: Iterable[Record]) -> Record | None:
    """The record of highest accuracy on validation, the earliest of several; None without any."""
    return max(validations(records), key=lambda record: record["accuracy"], default=None)


def is_of_best(results: Mapping[str, Any], records: Sequence[Record]) -> bool:
    """Whether results are of a checkpoint that was best on validation, as far as that is recorded.

    They are those of a `results_SPLIT.json`, the records those of `metrics.jsonl` beside it.
    """
    best = best_validation(records)
    own = best_validation(record for record in records if record["step"] == results.get("step"))
    return best is None or (own is not None and own["accuracy"] == best["accuracy"])


def _bring_back(path: Path, step: int, history: Records, say: Say) -> Records:
    """Makes the file hold the history, and what else it has of steps up to `step`; returns that."""
    data = read_bytes(path, follow=False) if os.path.lexists(path) else b""
    found = _parse(data)
    kept = history | {
        key: record
        for key, record in found.items()
        if key not in history and record["step"] <= step
    }
    text = _as_written(kept)
    if text == data:
        return kept
    whole = data[: data.rfind(b"\n") + 1]
    lines = _parse(whole)
    shared = history.keys() & found.keys()  # compared as written, where NaN equals NaN
    changed = [key for key in shared if strict_json(history[key]) != strict_json(found[key])]
    if changed or whole != _as_written(lines):
        aside = free_name(path.with_name(path.name + ".damaged"))
        write_atomically(aside, data)
        say(f"{path}: lines that were not written by a run removed; the file as it was: {aside}")
    elif data != whole and len(found) == len(lines):
        number = whole.count(b"\n") + 1
        say(f"{path}: last line (line {number}) was incomplete, removed")
    if restored := len(changed) + len(history.keys() - found.keys()):
        say(f"{path}: {restored} lines restored from the checkpoint of step {step:,}")
    if redone := len(found.keys() - kept.keys()):
        say(f"{path}: lines after step {step:,} removed, to be written again: {redone}")
    write_atomically(path, text)
    return kept


def _as_written(records: Records) -> bytes:
    return b"".join(map(strict_json, records.values()))


def _parse(data: bytes) -> Records:
    """The distinct records; lines that are none are left out."""
    records: Records = {}
    for line in data.split(b"\n"):
        try:
            record = _as_record(json.loads(line))
        except (ValueError, KeyError, OverflowError, RecursionError):
            continue
        records.setdefault((record["step"], record["split"]), record)
    return records


def _as_record(value: Any) -> Record:
    """Checks that a JSON value is a line as `RunLog.write` makes it; not finite becomes NaN."""
    if not isinstance(value, dict) or not isinstance(value.get("split"), str):
        raise ValueError("no record")
    record = {}
    for name, item in value.items():
        if name != "split":
            if isinstance(item, bool) or not isinstance(item, int | float | None):
                raise ValueError(f"{name} is not a number")
            # An integer too large for a float is no measurement: OverflowError.
            item = item if item is not None and math.isfinite(item) else math.nan
        record[name] = item
    step, epoch = record["step"], record["epoch"]
    if not (isinstance(step, int) and 0 <= step < _MOST and 0 <= epoch < _MOST):
        raise ValueError("no run counts that far")
    return record


def _append(file: Any, line: bytes) -> None:
    """Appends the whole line and syncs it, or takes back what was written of it."""
    before = os.fstat(file.fileno()).st_size
    try:
        written = file.write(line)
        if written != len(line):  # a nearly full disk takes a part without complaint
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), before)
        raise
