"""Writes a run's weights as Keras 3 reads them.

python -m eanet.convert.keras_export WORKDIR OUT.weights.h5 [--checkpoint=best|latest|STEP]

The model of the Keras example with the sizes of the run, as `keras_model.build` or the
example's own code builds it, loads the file with `model.load_weights`.
"""

import argparse
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import files
from eanet.checkpoints.manager import Checkpoints
from eanet.convert.keras_import import RECORD, describe, optimizer_of
from eanet.convert.keras_weights import Architecture, our_model, to_keras
from eanet.data.load import Dataset, load_dataset
from eanet.errors import UserError
from eanet.training import config_schema
from eanet.training import step as step_lib

_NORMALIZATION = "sequential/layers/normalization/vars"


def export(workdir: Path, out: Path, *, checkpoint: str = "best") -> Architecture:
    """Writes the weights that evaluation uses, and mean and variance of the training images.

    Imported weights that were not trained further keep the mean and variance they came with.

    Raises:
      UserError: the workdir is no run, its model is not of the Keras example's kind, or the file
        exists already or cannot be written.
    """
    if not out.name.endswith(".weights.h5"):
        raise UserError(f"Keras reads weights only from files named *.weights.h5, not {out}")
    if out.exists():
        raise UserError(f"{out} exists already; choose another name")
    config = config_schema.read(workdir / "config.json")
    dataset = load_dataset(seed=config.seed, **config.dataset)
    architecture = _architecture(workdir, config, dataset)
    params, step = _restore(workdir, config, architecture, checkpoint)
    mean, variance = _statistics(workdir, step) or (dataset.mean, dataset.std**2)
    values = to_keras(params, architecture) | {
        f"{_NORMALIZATION}/0": np.asarray(mean, np.float32),
        f"{_NORMALIZATION}/1": np.asarray(variance, np.float32),
        f"{_NORMALIZATION}/2": np.asarray(0, np.int32),
    }
    files.write(out, weights_h5(values))
    return architecture


def weights_h5(values: Mapping[str, np.ndarray]) -> bytes:
    """A `.weights.h5` file of Keras 3 with the given variables, named inside `layers/`."""
    try:
        import h5py
    except ImportError:
        raise UserError("Keras' files need h5py to be written: pip install h5py") from None
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, value in values.items():
            file[f"layers/{name}"] = value
    return content.getvalue()


def _architecture(workdir: Path, config: ConfigDict, dataset: Dataset) -> Architecture:
    model = config.model
    for key, value in (("norm", "double"), ("final_norm", False)):
        if model[key] != value:
            raise UserError(
                f"{workdir} has model.{key}={model[key]!r}, which the Keras example's model does "
                f"not know; only {value!r} can be exported"
            )
    return Architecture(
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        patch_size=model.patch_size,
        embed_dim=model.embed_dim,
        depth=model.depth,
        num_heads=model.num_heads,
        head_dim=model.head_dim,
        memory_size=model.memory_size if model.attention == "external" else 0,
        mlp_dim=model.mlp_dim,
        attention=model.attention,
    )


def _restore(
    workdir: Path, config: ConfigDict, architecture: Architecture, checkpoint: str
) -> tuple[Any, int]:
    """The parameters that evaluation uses, and their step."""
    model = our_model(architecture)
    dtype = np.dtype(config.model.param_dtype)
    optimizer = optimizer_of(config, model.kernels)
    ema = config.optimizer.ema_decay > 0

    def initial_state() -> step_lib.TrainState:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), model.init(0))
        return step_lib.init_state(params, optimizer, ema=ema)

    like = jax.eval_shape(initial_state)
    values = dict(config_lib.flatten(config))
    with Checkpoints(workdir / "checkpoints", config=values) as checkpoints:
        step, state = checkpoints.restore(checkpoint, like)
    return state.eval_params, step


def _statistics(workdir: Path, step: int) -> tuple[list[float], list[float]] | None:
    """Mean and variance that imported weights came with, unless training has gone on since."""
    try:
        record = json.loads((workdir / RECORD).read_bytes())["normalization"]
        return None if step or not record else (record["mean"], record["variance"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{workdir / RECORD} cannot be read: {error}; import again") from None


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eanet.keras_export", description="Export weights for the Keras EANet."
    )
    parser.add_argument("workdir", type=Path, help="directory of a run")
    parser.add_argument("out", type=Path, help="file to write, *.weights.h5")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    options = parser.parse_args(arguments)
    try:
        architecture = export(options.workdir, options.out, checkpoint=options.checkpoint)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {describe(architecture)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
