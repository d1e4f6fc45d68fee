"""The loss of an example, with the options that it has: keys of a config and arguments here."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eanet.rules import Number, Rule

RULES: dict[str, Rule] = {"label_smoothing": Number(0, 1, below=True)}

# Of logits and targets, rows of probabilities, to a loss for each row.
Loss = Callable[[Float[Array, "b classes"], Float[Array, "b classes"]], Float[Array, "b"]]


def make_loss(*, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy in nats against `(1 − label_smoothing)·targets + label_smoothing / classes`."""

    def loss(
        logits: Float[Array, "b classes"], targets: Float[Array, "b classes"]
    ) -> Float[Array, "b"]:
        smoothed = (1.0 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
        return -jnp.sum(smoothed * jax.nn.log_softmax(logits), axis=-1)

    return loss
