"""The metrics by name: of each example or step, their sums, and their means over many."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eanet.training.loss import Loss


def in_top_k(
    logits: Float[Array, "b classes"], labels: Int[Array, "b"], k: int
) -> Float[Array, "b"]:
    """1 where the label is among the k largest logits (ties: lower class first), else 0."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])[None, :]
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return ((jnp.sum(before, axis=-1) < k) & jnp.isfinite(own[:, 0])).astype(jnp.float32)


_OF_EXAMPLES: dict[str, Callable[[Loss, Array, Array, Array], Array]] = {
    "loss": lambda loss, logits, labels, targets: loss(logits, targets),
    "accuracy": lambda loss, logits, labels, targets: in_top_k(logits, labels, 1),
    "top5_accuracy": lambda loss, logits, labels, targets: in_top_k(logits, labels, 5),
}


def of_examples(
    loss: Loss,
    logits: Float[Array, "b classes"],
    labels: Int[Array, "b"],
    targets: Float[Array, "b classes"],
) -> dict[str, Float[Array, "b"]]:
    """Loss and accuracies of each example."""
    return {name: metric(loss, logits, labels, targets) for name, metric in _OF_EXAMPLES.items()}


def of_step(examples: int, grad_norm: Float[Array, ""]) -> dict[str, Float[Array, ""]]:
    """What one step adds to the sums, besides those over its examples."""
    return {"examples": jnp.float32(examples), "steps": jnp.float32(1), "grad_norm": grad_norm}


def zero_sums() -> dict[str, Float[Array, ""]]:
    """The sums of a state before its first step or after a report."""
    names = (*_OF_EXAMPLES, "examples", "steps", "grad_norm")
    return {name: jnp.zeros((), jnp.float32) for name in names}  # each an array to be donated


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """Averages over steps (grad_norm) and examples (all others); none where nothing was summed."""
    host = {name: float(value) for name, value in jax.device_get(dict(sums)).items()}
    examples, steps = host.pop("examples"), host.pop("steps", 0.0)
    if not examples:
        return {}
    return {
        name: value / (steps if name == "grad_norm" else examples) for name, value in host.items()
    }
