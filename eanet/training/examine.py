"""One training step looked into, layer by layer."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from eanet.models.functional import SplitModel
from eanet.training.batches import Prepare
from eanet.training.loss import Loss
from eanet.training.step import TrainState, make_batch_loss


def make_examine(
    model: SplitModel, loss: Loss, prepare: Prepare, batch_size: int
) -> Callable[..., dict[str, dict[str, float]]]:
    """Builds `examine(state, seed, images, labels)`: the step that `state` stands before.

    The images (uint8) and labels are those of the step; augmentation and dropout are drawn as the
    step draws them. Returned are numbers by `EANet.stage_names`, in that order, then
    "head" and "loss": `activation_rms` and `activation_max` (root mean square and largest absolute
    value of the output), and `gradient_norm` of the part's parameters.
    """
    batch_loss = make_batch_loss(model.apply, loss, batch_size)

    names = [*model.abstract.stage_names, "head", "loss"]

    @jax.jit
    def look(state: TrainState, seed: Any, images: Array, labels: Array) -> list[dict[str, Array]]:
        batch = prepare(seed, state.step, images, labels)
        module = model.merge(state.params)
        (mean_loss, _), gradient = jax.value_and_grad(batch_loss, has_aux=True)(
            state.params, *batch
        )
        outputs = [
            *module.stages(batch[0], rngs=batch[2]),
            module(batch[0], rngs=batch[2]),
            mean_loss,
        ]
        found = [_activation(output) for output in outputs]
        for name, part in _parts(gradient, model.abstract.depth).items():
            found[names.index(name)]["gradient_norm"] = optax.tree.norm(part)
        return found

    def examine(
        state: TrainState, seed: Any, images: Array, labels: Array
    ) -> dict[str, dict[str, float]]:
        found = jax.device_get(look(jax.device_get(state), seed, images, labels))
        return dict(zip(names, jax.tree.map(float, found), strict=True))

    return examine


def first_not_finite(found: dict[str, dict[str, Any]]) -> str | None:
    """Where numbers first stop being finite: forwards in the activations, then backwards.

    Args:
      found: by `examine`.
    """
    for name, values in found.items():
        if not math.isfinite(values["activation_max"]):
            return f"the output of {name}"
    for name, values in reversed(found.items()):
        if not math.isfinite(values.get("gradient_norm", 0.0)):
            return f"the gradient of {name}"
    return None


def _activation(output: Array) -> dict[str, Array]:
    output = output.astype(jnp.float32)
    return {
        "activation_rms": jnp.sqrt(jnp.mean(jnp.square(output))),
        "activation_max": jnp.max(jnp.abs(output)),
    }


def _parts(params: Any, depth: int) -> dict[str, Any]:
    """A tree like the parameters, by the names of the stages."""
    parts = {name: part for name, part in params.items() if name != "blocks"}
    for index in range(depth):
        parts[f"blocks/{index}"] = jax.tree.map(lambda leaf: leaf[index], params["blocks"])  # noqa: B023, called at once
    return parts
