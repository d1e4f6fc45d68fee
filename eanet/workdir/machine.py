"""What a run was computed on, so that a start on something else is said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eanet import files

NAME = "machine.json"

_ADVICE = "remove it: it only tells what the run was computed on"


def describe_change(workdir: Path, now: Mapping[str, Any]) -> str:
    """What computed a run before and is another now, such as "device: 2 × cpu, now 1 × cpu"; or "".

    Args:
      workdir: of the run.
      now: as `write` takes it.

    Raises:
      UserError: the record is damaged.
    """
    return _change(files.read_record(workdir / NAME, _ADVICE) or dict(now), now)


def write(workdir: Path, now: Mapping[str, Any], step: int) -> None:
    """Records what computes a run from this step on; what did before stays below it.

    Args:
      workdir: of the run.
      now: names and versions, or groups of them; JSON values.
      step: that it goes on from; 0 for a new run.

    Raises:
      UserError: it cannot be written, or the record is damaged.
    """
    before = files.read_record(workdir / NAME, _ADVICE) if step else None
    if before is not None and not _change(before, now):
        return
    earlier = []
    if before is not None:
        listed = before.pop("earlier", [])
        earlier = [*(listed if isinstance(listed, list) else []), before]
    files.write_record(workdir / NAME, {**now, "from_step": step, "earlier": earlier})


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = dict(_flat(before)), dict(_flat(now))
    return "; ".join(
        f"{key}: {old.get(key, 'not set')}, now {new.get(key, 'not set')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    )


def _flat(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    groups = (
        (key, value if isinstance(value, dict) else {"": value})
        for key, value in record.items()
        if key not in ("from_step", "earlier")
    )
    return [(name or key, value) for key, group in groups for name, value in group.items()]
