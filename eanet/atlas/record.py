"""`atlas.json`: the numbers of an atlas, and a summary by which two of them are compared."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from eanet import files
from eanet.errors import UserError

NAME = "atlas.json"
_FORMAT = 1
_DIGITS = 5

# Of a block, in the order shown: what each is called.
SUMMARY = {
    "units": "units S",
    "effective_units": "effective units",
    "dead": "dead",
    "twins": "pairs of twins",
    "entropy_over_units": "entropy over units",
    "entropy_over_tokens": "entropy over tokens",
    "largest_loss": "largest loss, points",
}


def as_bytes(facts: dict[str, Any], blocks: list[dict[str, Any]]) -> bytes:
    """The file: what was measured on which data, and the measures of each block."""
    record = _plain({"format": _FORMAT, **facts, "blocks": blocks})
    return files.strict_json(files.sealed(record))


def _plain(value: Any) -> Any:
    """Arrays as lists, numbers with as many digits as mean something."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in (value.tolist() if hasattr(value, "tolist") else value)]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return value


def summary(block: dict[str, Any]) -> dict[str, float]:
    """The numbers of a block that compare with those of another model; `SUMMARY` names them."""
    found = {
        "units": len(block["share"]),
        "effective_units": float(block["effective_units"]),
        "dead": len(block["dead"]),
        "twins": len(block["twins"]),
        "entropy_over_units": float(np.mean(block["entropy_over_units"])),
        "entropy_over_tokens": float(np.mean(block["entropy_over_tokens"])),
    }
    if "change" in block:
        found["largest_loss"] = max(0.0, -100 * float(np.min(block["change"])))
    return found


def read(run: Path) -> dict[str, Any]:
    """The atlas of a run, or in a directory of its own, with a `summary` of each block.

    Raises:
      UserError: there is none, or it is damaged, of another version, or of self-attention.
    """
    files.put_back(run / "atlas")
    found = (place / NAME for place in (run / "atlas", run) if (place / NAME).exists())
    path = next(found, None)
    advice = "make it anew with python -m eanet atlas RUN"
    record = None if path is None else files.read_record(path, advice)
    if record is None:
        raise UserError(f"{run} has no atlas; make it first: python -m eanet atlas {run}")
    try:
        if record["format"] != _FORMAT or record["kind"] != "units":
            raise UserError(f"{path} is of another kind; {advice}")
        summaries = [summary(block) for block in record["blocks"]]
        return {
            "run": str(record["run"]),
            "split": str(record["split"]),
            "num_examples": int(record["without"]["num_examples"]),
            "accuracy": float(record["without"]["accuracy"]),
            "summary": summaries,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no atlas ({error}); {advice}") from None
