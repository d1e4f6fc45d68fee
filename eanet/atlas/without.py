"""What is lost when a unit of the memory is switched off, measured.

The unit's row of the value memory is set to zero: nothing is read from it, while the other units
keep the attention that they have beside it. That is the same as a zero in its column of the
normalised attention, in every head.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from eanet.data.base import Split
from eanet.inference.model import Model

_BATCH = 64  # images, so that progress is told often


def make_answers(model: Model) -> Callable[[np.ndarray], Int[np.ndarray, "b variants"]]:
    """Builds `call(images)` -> the class answered by the model, and without each of its units.

    The first is of the intact model; then units of the first block follow, of the second, … All of
    them are one compiled program.
    """
    depth, units = model.params["blocks"]["attention"]["value_memory"].shape[:2]
    off = np.concatenate([[-1], np.arange(depth * units)])

    def answers(module: Any, x: Float[Array, "b height width c"]) -> Int[Array, "b variants"]:
        params = nnx.to_pure_dict(nnx.state(module))
        blocks = params["blocks"]
        attention = blocks["attention"]
        index = jnp.arange(depth * units).reshape(depth, units, 1)

        def answer(off: Int[Array, ""]) -> Int[Array, "b"]:
            memory = jnp.where(index == off, 0, attention["value_memory"])
            other = {**blocks, "attention": {**attention, "value_memory": memory}}
            return jnp.argmax(model.network.apply({**params, "blocks": other}, x), -1)

        return jax.lax.map(answer, jnp.asarray(off)).T

    return model.compiled(answers)


def measure(model: Model, examples: Split, progress: Callable[[int], object]) -> dict[str, Any]:
    """The accuracy of the intact model, and per block and unit what changes without it.

    Returns:
      accuracy, num_examples; `lost` and `won` `[depth, S]`: images that are right with the unit
      alone, and without it alone; `change` = (won − lost) / num_examples, and `margin`, half its
      95 % interval by the normal approximation of a paired difference.
    """
    depth, units = model.params["blocks"]["attention"]["value_memory"].shape[:2]
    answers, count = make_answers(model), len(examples)
    intact, lost, won = 0, np.zeros(depth * units, int), np.zeros(depth * units, int)
    for first in range(0, count, _BATCH):
        part = examples[first : first + _BATCH]
        right = answers(part.images) == part.labels[:, None]
        intact += right[:, 0].sum()
        lost += (right[:, :1] & ~right[:, 1:]).sum(0)
        won += (~right[:, :1] & right[:, 1:]).sum(0)
        progress(first + len(part))
    change = (won - lost) / count
    margin = 1.96 * np.sqrt(np.maximum((lost + won) / count - change**2, 0) / count)
    by_unit = {"lost": lost, "won": won, "change": change, "margin": margin}
    return {
        "accuracy": intact / count,
        "num_examples": count,
        **{name: values.reshape(depth, units) for name, values in by_unit.items()},
    }


def spread(examples: Split, most: int) -> Split:
    """So many examples, evenly over the split, since folders come sorted by class."""
    count = min(most, len(examples))
    return examples[np.arange(count) * len(examples) // max(count, 1)]
