"""What a measurement leaves behind: a JSON file, and a picture of the same name beside it."""

import datetime
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eanet.data.base import physical_memory
from eanet.environment import environment
from eanet.errors import UserError
from eanet.files import strict_json, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, distinct for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")


def write(directory: str, name: str, values: Mapping[str, Any], figure: "Figure") -> Path:
    """Writes `NAME.json` with the machine and the command, and `NAME.png`.

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
        figure.savefig(path.with_suffix(".png"), dpi=150)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> Any:
    """A figure and its grid of axes, without the frame that says nothing."""
    # On a busy machine matplotlib says that its first start takes long, as if something were wrong.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
    return figure, grid
