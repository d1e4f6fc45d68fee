"""The loss of an example, with the options that it has: keys of a config and arguments here."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eanet.rules import Number, Rule

RULES: dict[str, Rule] = {"label_smoothing": Number(0, 1, below=True)}

# Of logits and targets, rows of probabilities, to a loss for each row.
Loss = Callable[[Float[Array, "b classes"], Float[Array, "b classes"]], Float[Array, "b"]]


def make_loss(
    *, label_smoothing: float = 0.0, class_weights: Float[np.ndarray, "classes"] | None = None
) -> Loss:
    """Cross-entropy in nats against `(1 − label_smoothing)·targets + label_smoothing / classes`.

    With class weights that of a row is multiplied by `sum(class_weights · targets)`, the weight of
    its class or, of a mixed image, the mean of those of its classes.
    """

    def loss(
        logits: Float[Array, "b classes"], targets: Float[Array, "b classes"]
    ) -> Float[Array, "b"]:
        smoothed = (1.0 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
        return -jnp.sum(smoothed * jax.nn.log_softmax(logits), axis=-1)

    if class_weights is None:
        return loss

    def weighted(
        logits: Float[Array, "b classes"], targets: Float[Array, "b classes"]
    ) -> Float[Array, "b"]:
        return jnp.sum(targets * class_weights[None, :], axis=-1) * loss(logits, targets)

    return weighted
