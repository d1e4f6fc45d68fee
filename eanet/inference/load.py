"""A run, or the file that was exported of one, becomes a model."""

import os
import warnings
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import hub
from eanet.checkpoints.manager import Checkpoints
from eanet.data.base import Log
from eanet.data.load import load_dataset
from eanet.errors import UserError
from eanet.inference import weights
from eanet.inference.model import Model
from eanet.inference.place import Place
from eanet.training import config_schema
from eanet.training.run import build_model
from eanet.workdir import model_record
from eanet.workdir.model_record import ModelRecord

_warn = partial(warnings.warn, stacklevel=3)  # the line that called `load`


def load(
    workdir: str | os.PathLike[str],
    checkpoint: str | int = "best",
    *,
    log: Log = _warn,
) -> Model:
    """Loads the model of a run; nothing of what it reads is executed.

    Args:
      workdir: directory of the run; or a file `*.safetensors` that was exported of one, or
        `hf:USER/NAME[@REVISION]` for one that was put at the hub. These hold one checkpoint.
      checkpoint: "best" on validation (the latest where nothing was held out), "latest", or a step.
      log: told, one line each, what a person should know.

    Raises:
      UserError: it is no run, or the checkpoint is missing, damaged or does not fit.
    """
    place = Place.of(workdir)
    if place.is_model_alone and checkpoint != "best":
        raise UserError(f"{place} holds one checkpoint, and none to be chosen: {checkpoint}")
    if place.path is None:
        return weights.read(hub.download(hub.parse(place.text)))
    if place.is_model_alone:
        return weights.read(place.path)
    workdir = place.path
    config = config_schema.read(workdir / "config.json")
    record = model_record.read(workdir) or _record_from_data(workdir, config, log)
    network = build_model(config, len(record.class_names), record.image_shape)
    like = jax.eval_shape(network.init, np.uint32(0))
    values = dict(config_lib.flatten(config))
    with Checkpoints(workdir / "checkpoints", log=log, config=values) as checkpoints:
        step, params = checkpoints.restore_eval_params(checkpoint, like)
    return Model(config, record, step, params, network)


def _record_from_data(workdir: Path, config: ConfigDict, log: Log) -> ModelRecord:
    log(f"{workdir} has no {model_record.NAME}: classes and statistics are those of its data now")
    try:
        dataset = load_dataset(seed=config.seed, log=log, **config.dataset)
    except UserError as error:
        raise UserError(
            f"{workdir} has no {model_record.NAME}, so that its class names must come from its "
            f"data, which cannot be loaded: {error}"
        ) from None
    return ModelRecord.of(dataset)
