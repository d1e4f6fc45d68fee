"""The state that a run starts from: its model's own, or that of weights that exist."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from eanet import files
from eanet.display.console import Console
from eanet.training.run import Run
from eanet.training.step import TrainState
from eanet.transfer.fit import Row, fit
from eanet.transfer.weights import read_weights

NAME = "init.json"


@dataclass(frozen=True)
class Start:
    """Which weights a run started from, and what became of them: the content of `init.json`."""

    source: str  # as the config names it
    step: int | None  # of the checkpoint; a file of Keras knows none
    params_sha256: str  # see `eanet.checkpoints.storage.digest`
    tensors: Sequence[Row]


def initial_state(run: Run, console: Console) -> tuple[TrainState, Start | None]:
    """The state before the first step, on the devices, and what became of the weights.

    Those of `init_from` in the config are shown as a table; without it there is nothing to tell.

    Raises:
      UserError: the weights cannot be read, or do not fit the model.
    """
    state = run.initial_state()
    if not run.config.init_from:
        return state, None
    weights = read_weights(run.config.init_from, console.warn)
    params, rows = fit(
        weights,
        jax.device_get(state.params),
        grid=run.model.abstract.patch_embed.grid,
        model=run.config.model.to_dict(),
        class_names=run.dataset.class_names,
    )
    title = f"Starts from the weights of {weights.source}"
    console.table(title, ("tensors", "what becomes of them"), _grouped(rows))
    return run.state_of(params), Start(weights.source, weights.step, weights.digest, rows)


def write_record(workdir: Path, start: Start) -> None:
    """Records in `init.json` which weights they were and what became of each tensor.

    Raises:
      UserError: it cannot be written.
    """
    files.write_record(workdir / NAME, asdict(start))


def _grouped(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Rows of a table, one for the tensors of a module that fare alike."""

    def fate(row: Row) -> tuple[str, str]:
        return row.name.rpartition("/")[0], row.outcome

    for (module, outcome), group in itertools.groupby(rows, fate):
        yield f"{module}/{', '.join(row.name.rpartition('/')[2] for row in group)}", outcome
