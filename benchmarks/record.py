"""What a measurement leaves behind: a JSON file, and beside it a picture, where there is one."""

import datetime
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.pictures import PICTURES
from eanet.config_flags import FIGURES
from eanet.data.base import physical_memory
from eanet.display.plot_style import as_files, kinds
from eanet.environment import environment
from eanet.errors import UserError
from eanet.files import strict_json, write_atomically


@flags.validator("figures")
def _known(text: str) -> bool:
    """Refuses a kind that there is not before anything is measured."""
    try:
        return bool(kinds(text))
    except UserError as error:
        raise flags.ValidationError(str(error).partition(": ")[2]) from None


def write(directory: str, name: str, values: Mapping[str, Any]) -> Path:
    """Writes `NAME.json` with the machine and the command, and its picture of `PICTURES`.

    Raises:
      UserError: the directory cannot be written.
    """
    path = Path(directory) / f"{name}.json"
    record = {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": physical_memory(),
        **environment(),
        **values,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, strict_json(record, indent=1))
        if draw := PICTURES.get(name):
            for kind, data in as_files(name, draw(record), kinds(FIGURES.value)).items():
                write_atomically(path.with_name(kind), data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path
