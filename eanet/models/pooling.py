"""From tokens to one vector: the table of poolings that a new one is added to."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eanet.models.layers import Kernel


class Mean(nnx.Module):
    """The mean over the tokens."""

    def __init__(self, embed_dim: int, **options: Any):
        del embed_dim, options

    def __call__(self, x: Float[Array, "d b n"]) -> Float[Array, "d b"]:
        """Pools, in float32."""
        return jnp.mean(x.astype(jnp.float32), axis=2)


class SequencePooling(nnx.Module):
    """A mean over the tokens weighted by a softmax of one learned product with each.

    Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers" (arXiv 2104.05704).
    Its weights begin as zeros, and so it begins as the mean.
    """

    def __init__(self, embed_dim: int, *, param_dtype: Any = jnp.float32, **options: Any):
        del options
        self.query = Kernel(jnp.zeros((embed_dim, 1), param_dtype))

    def __call__(self, x: Float[Array, "d b n"]) -> Float[Array, "d b"]:
        """Pools, in float32."""
        x = x.astype(jnp.float32)
        logits = jnp.sum(self.query[...].astype(jnp.float32)[:, :, None] * x, axis=0)
        return jnp.sum(jax.nn.softmax(logits, axis=-1)[None] * x, axis=2)


# By `model.pooling`.
POOLINGS: dict[str, Callable[..., Any]] = {"mean": Mean, "attention": SequencePooling}
