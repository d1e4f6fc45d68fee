"""A training step looked into layer by layer, and the record of one that could not be taken."""

import math
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from eanet import files
from eanet.environment import environment
from eanet.errors import UserError
from eanet.models.functional import SplitModel
from eanet.training.batches import Prepare
from eanet.training.loss import Loss
from eanet.training.step import TrainState, make_batch_loss

Layers = dict[str, dict[str, float]]

_BLACK_BOX = "blackbox.json"


def make_examine(
    model: SplitModel, loss: Loss, prepare: Prepare, batch_size: int
) -> Callable[..., Layers]:
    """Builds `examine(state, seed, images, labels)`: the step that `state` stands before.

    The images (uint8) and labels are those of the step; augmentation and dropout are drawn as the
    step draws them. Returned are numbers by `EANet.stage_names`, in that order, then
    "head" and "loss": `activation_rms` and `activation_max` (root mean square and largest absolute
    value of the output), and `gradient_norm` of the part's parameters.
    """
    batch_loss = make_batch_loss(model.apply, loss, batch_size)
    names = [*model.abstract.stage_names, "head", "loss"]

    @jax.jit
    def look(params, seed, step, images, labels):
        images, targets, rngs = prepare(seed, step, images, labels)
        module = model.merge(params)
        (mean_loss, _), gradient = jax.value_and_grad(batch_loss, has_aux=True)(
            params, images, targets, rngs
        )
        outputs = [*module.stages(images, rngs=rngs), module(images, rngs=rngs), mean_loss]
        found = dict(zip(names, map(_activation, outputs), strict=True))
        for name, part in _parts(gradient, model.abstract.depth).items():
            found[name]["gradient_norm"] = optax.tree.norm(part)
        return list(found.values())  # a dict would come back sorted by name

    def examine(state: TrainState, seed: Any, images: Array, labels: Array) -> Layers:
        params, step = jax.device_get((state.params, state.step))
        found = jax.device_get(look(params, seed, step, images, labels))
        return dict(zip(names, jax.tree.map(float, found), strict=True))

    return examine


def first_not_finite(found: Layers) -> str:
    """Where numbers first stop being finite: forwards in the activations, then backwards.

    `examine` does not compute quite as the compiled step does, so that it may find nothing.
    """
    for name, values in found.items():
        if not math.isfinite(values["activation_max"]):
            return f"the output of {name}"
    for name, values in reversed(found.items()):
        if not math.isfinite(values.get("gradient_norm", 0.0)):
            return f"the gradient of {name}"
    return "only in the compiled step"


def write_black_box(workdir: Path, record: Mapping[str, Any]) -> Path:
    """Writes all it takes to see a step once more, with what `environment` tells.

    Of the record, `step` is the number of finished steps and the checkpoint to begin at, `indices`
    are those of the batch in the training split.

    Raises:
      UserError: it cannot be written.
    """
    return files.write_json(workdir / _BLACK_BOX, {**environment(), **record})


def read_black_box(workdir: Path) -> tuple[int, list[int]]:
    """Step and indices of the record.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path, advice = workdir / _BLACK_BOX, "train again to have it written anew"
    record = files.read_record(path, advice)
    if record is None:
        raise UserError(f"there is no {_BLACK_BOX} in {workdir}: no step of this run failed")
    step, indices = record.get("step"), record.get("indices")
    numbers: list[Any] = [step, *indices] if isinstance(indices, list) else [None]
    if not all(type(number) is int and 0 <= number < 2**31 for number in numbers):
        raise UserError(f"{path} is damaged; {advice}")
    return numbers[0], numbers[1:]


def _activation(output: Array) -> dict[str, Array]:
    output = output.astype(jnp.float32)
    return {
        "activation_rms": jnp.sqrt(jnp.mean(jnp.square(output))),
        "activation_max": jnp.max(jnp.abs(output)),
    }


def _parts(params: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """A tree like the parameters, by the names of the stages."""
    parts = dict(params)
    blocks = parts.pop("blocks")
    for index in range(depth):
        parts[f"blocks/{index}"] = jax.tree.map(itemgetter(index), blocks)
    return parts
