"""A learned scale of what a branch adds to the tokens."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eanet.models.ops import residual


class ResidualScale(nnx.Module):
    """`scale · branch`, with a factor for each feature.

    LayerScale of Touvron et al., "Going Deeper with Image Transformers" (arXiv 2103.17239): from a
    small initial value on, blocks begin near the identity.

    Args:
      embed_dim: d.
      initial: value of all factors at the start.
    """

    def __init__(
        self,
        embed_dim: int,
        initial: float,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        self.scale = nnx.Param(jnp.full(embed_dim, initial, param_dtype))
        self.dtype = dtype

    def __call__(self, branch: Float[Array, "d b n"]) -> Float[Array, "d b n"]:
        """Scales; the branch is saved for the gradient of the scale."""
        return residual(branch) * self.scale[:, None, None].astype(self.dtype)
