"""What is recorded of an evaluation."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eanet import files
from eanet.environment import environment
from eanet.errors import UserError
from eanet.rules import Number, OrNothing, Rule, Such, Text


class Measure(NamedTuple):
    """A number in the results of a split."""

    label: str  # what a person calls it
    kind: str  # of `_KINDS`: how it is checked, and written (`eanet.display.numbers`)


_KINDS: dict[str, Rule] = {
    "fraction": Number(0, 1),
    "loss": Number(-1e30, 1e30),
    "likelihood": Number(0, 1e30),
    "temperature": Number(0, 1e30, above=True),
    "count": Number(0, 2**63 - 1, whole=True),
    "work": Number(0, 2**63 - 1, whole=True),
    "seconds": Number(0, 1e30),
}

# In the order in which they are shown.
MEASURES = {
    "accuracy": Measure("top-1 accuracy", "fraction"),
    "top5_accuracy": Measure("top-5 accuracy", "fraction"),
    "balanced_accuracy": Measure("balanced accuracy", "fraction"),
    "loss": Measure("loss", "loss"),
    "nll": Measure("negative log-likelihood", "likelihood"),
    "ece": Measure("calibration error (ECE)", "fraction"),
    "temperature": Measure("temperature of validation", "temperature"),
    "ece_at_temperature": Measure("ECE at this temperature", "fraction"),
    "num_examples": Measure("images", "count"),
    "step": Measure("checkpoint of step", "count"),
    "parameters": Measure("parameters", "count"),
    "multiply_adds_per_image": Measure("MACs per image", "work"),
    "evaluation_seconds": Measure("evaluation took", "seconds"),
    "run_seconds": Measure("run took", "seconds"),
    "cpu_seconds": Measure("CPU time of the run", "seconds"),
}
RULES: dict[str, Rule] = {
    **{name: OrNothing(_KINDS[measure.kind]) for name, measure in MEASURES.items()},
    "device": OrNothing(Text()),
    "git_commit": OrNothing(Text()),
    "files": OrNothing(Such("digests by name", lambda value: isinstance(value, dict))),
}

_ADVICE = "make room or mend its directory, then evaluate again"
_MOST = 60  # letters of a data set's name in that of a file


def results_name(
    split: str, checkpoint: str = "best", other: str | None = None, kind: str = "results.json"
) -> str:
    """The name of the file with the results of a checkpoint, on the run's or `other` data.

    Only `results_SPLIT.json` is what reports and the model card read: of the best checkpoint, on
    the data of the run. A folder, and a name that is not one of a file as it stands, is told from
    others by a digest. What is written beside it is of another kind, as "predictions.csv".
    """
    name = split
    if checkpoint != "best":
        name += f"_{checkpoint}" if checkpoint == "latest" else f"_step_{checkpoint}"
    if other is not None:
        place = os.path.realpath(other.removeprefix("folder:"))
        whole, shown = (
            (f"folder:{place}", Path(place).name) if other.startswith("folder:") else (other, other)
        )
        shown = re.sub(r"[^A-Za-z0-9.-]+", "-", shown)[:_MOST]
        # What is shown of it may be the same of another one.
        digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]
        name += f"_on_{shown}" if shown == whole else f"_on_{shown}-{digest}"
    return f"{Path(kind).stem}_{name}{Path(kind).suffix}"


def write_results(
    workdir: str | Path,
    split: str,
    results: Mapping[str, Any],
    *,
    checkpoint: str = "best",
    other: str | None = None,
    final: bool = True,
    beside: Mapping[str, bytes] | None = None,
) -> Path | None:
    """Writes the results of an evaluation and returns the path, see `results_name`.

    Results are loss, accuracy and top5_accuracy (fractions), num_examples, step (of a checkpoint),
    parameters, multiply_adds_per_image, evaluation_seconds, run_seconds and cpu_seconds (from the
    start of the program, where it trained without a stop), device, and the measures of
    docs/evaluation.md; what else `environment` tells is added. `beside` has the content of more
    files by their kind; the results are written last, with digests of these.

    Unless they are `final`, and count whatever is recorded, those of a later step on the same data
    are left as they are, since training may have ended in the meantime; then None is returned.

    Raises:
      UserError: a file cannot be written; an older one is untouched.
    """
    named = {
        results_name(split, checkpoint, other, kind): data for kind, data in (beside or {}).items()
    }
    path = Path(workdir) / results_name(split, checkpoint, other)
    which = {"split": split, "checkpoint": checkpoint} | ({"dataset": other} if other else {})
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in named.items()}
    record = {**which, **environment(), **results, "files": digests}
    if not final and _is_later(path, record):
        return None
    for name, data in named.items():
        files.write(path.with_name(name), data, _ADVICE)
    return files.write_record(path, record, _ADVICE)


def read_results(workdir: Path, split: str) -> dict[str, Any] | None:
    """Reads `results_SPLIT.json`; None where the run has none; raises as `files.read_record`."""
    return files.read_record(workdir / results_name(split), known=RULES)


def _is_later(path: Path, record: Mapping[str, Any]) -> bool:
    try:
        there = files.read_record(path) or {}
    except UserError:
        return False  # damaged
    same = all(there.get(key) == record.get(key) for key in ("checkpoint", "fingerprint"))
    return same and isinstance(there.get("step"), int) and there["step"] > record["step"]
