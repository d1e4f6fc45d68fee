"""`blackbox.json`: all it takes to see once more the step that training could not take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eanet import files
from eanet.environment import environment
from eanet.errors import UserError
from eanet.files import read_record

_NAME = "blackbox.json"
_KEYS = {"step", "indices"}


def write(workdir: Path, record: Mapping[str, Any]) -> Path:
    """Writes the record with what `report.environment` tells, and returns its path.

    Args:
      workdir: of the run.
      record: step (the number of finished steps, and of the checkpoint to begin at), epoch,
        indices (of the batch, into the training split), seed, random_bits, where (numbers first
        stop being finite), layers (from `examine`), and replay (the command).

    Raises:
      UserError: it cannot be written.
    """
    return files.write_json(workdir / _NAME, {**record, **environment()})


def read(workdir: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
      UserError: there is none, or it is damaged.
    """
    record = read_record(workdir / _NAME)
    if record is None:
        raise UserError(f"there is no {_NAME} in {workdir}: no step of this run failed")
    if not record.keys() >= _KEYS or not isinstance(record["indices"], list):
        raise UserError(f"{workdir / _NAME} is damaged; train again to have it written anew")
    return record
