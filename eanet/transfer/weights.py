"""Weights that exist, of whatever kind they are stored as."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eanet.checkpoints import storage
from eanet.convert import keras_files
from eanet.convert.keras_weights import infer, to_params
from eanet.data.base import Log
from eanet.errors import UserError
from eanet.inference.load import load


@dataclass(frozen=True)
class Weights:
    """Parameters to start from, and what their shapes mean."""

    source: str  # as a person named it
    params: Any  # a nested dict of arrays
    grid: tuple[int, int]  # rows and columns of the tokens
    model: dict[str, Any]  # the options of its model, as in a config
    class_names: tuple[str, ...]  # of the logits; empty where they are not known
    step: int | None = None  # of the checkpoint; None where it is not known

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters: the same for a run and for a file that was made of it."""
        return storage.digest(storage.named(self.params))


def read_weights(source: str, log: Log) -> Weights:
    """Reads what `eanet.load` takes, or a file of Keras (`.weights.h5`, `.keras`, `.h5`).

    `log` is told, one line each, what a person should know.

    Raises:
      UserError: there is nothing, or it is damaged.
    """
    if Path(source).suffix in (".h5", ".keras"):
        keras = keras_files.read(Path(source).expanduser())
        sizes = infer(keras)
        rows, columns = (side // sizes.patch_size for side in sizes.image_shape[:2])
        params, options = to_params(keras, sizes), sizes.model_options()
        return Weights(source, params, (rows, columns), options, ())
    try:
        model = load(source, log=log)
    except UserError as error:
        raise UserError(f"init_from={source}: {error}") from None
    return Weights(
        source=source,
        params=jax.tree.map(np.asarray, model.params),
        grid=model.network.abstract.patch_embed.grid,
        model=model.config.model.to_dict(),
        class_names=model.class_names,
        step=model.step,
    )
