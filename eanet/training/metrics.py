"""Accuracies of a batch, and means over many."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """Averages over examples (loss, accuracies) and steps (grad_norm) from their sums."""
    host = {name: float(value) for name, value in jax.device_get(dict(sums)).items()}
    examples, steps = host.pop("examples"), host.pop("steps", 0.0)
    result = {name: value / max(examples, 1.0) for name, value in host.items()}
    if "grad_norm" in host:
        result["grad_norm"] = host["grad_norm"] / max(steps, 1.0)
    return result


def hits(logits: Float[Array, "b classes"], labels: Int[Array, "b"], k: int) -> Float[Array, "b"]:
    """1 where the label is among the k largest logits (ties: lower class first), else 0."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])[None, :]
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return ((jnp.sum(before, axis=-1) < k) & jnp.isfinite(own[:, 0])).astype(jnp.float32)
