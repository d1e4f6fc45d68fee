"""Weights from elsewhere become a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from eanet.training.optimizer import OptimizerOptions, make_optimizer
from eanet.training.run import build_model
from eanet.training.step import init_state
from eanet.workdir import model_record
from eanet.workdir.claim import claimed
from eanet.workdir.model_record import ModelRecord


def write_run(
    workdir: Path,
    config: ConfigDict,
    record: ModelRecord,
    params: Any,
    log: Callable[[str], object],
) -> None:
    """Writes a run whose only checkpoint, of step 0, has these parameters; training goes on there.

    Args:
      workdir: of the new run.
      config: of the run.
      record: what the model takes and answers.
      params: those of the model that config and record describe, a nested dict of arrays.
      log: told what a person should know, a line each.

    Raises:
      UserError: the workdir is taken or cannot be written.
    """
    options = OptimizerOptions(**config.optimizer)
    kernels = build_model(config, len(record.class_names), record.image_shape).kernels
    # The learning rate does not change the form of the state.
    optimizer = make_optimizer(options, optax.constant_schedule(0.0), kernels)
    params = jax.tree.map(jnp.asarray, params)
    state = init_state(params, optimizer, ema=options.ema_decay > 0)
    values = dict(config_lib.flatten(config))
    with (
        claimed(workdir, config, log),
        Checkpoints(workdir / "checkpoints", log=log, config=values) as checkpoints,
    ):
        if checkpoints.steps():
            raise UserError(f"{workdir} holds a run already; choose another --workdir")
        model_record.write(workdir, record)
        (workdir / "metrics.jsonl").touch()  # the log of a run without a step
        checkpoints.save(0, state)
