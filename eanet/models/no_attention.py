"""No attention at all: what is left of a block shows what an attention is worth."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet.models.base import Attention


class NoAttention(Attention):
    """Adds nothing to any token, and has no parameters; the block has no norm before it either."""

    about = """\
Its blocks have no attention, only an MLP for every token: the baseline that shows what *external
attention* ([Guo et al., 2021](https://arxiv.org/abs/2105.02358)) is worth."""
    columns = True

    def __init__(self, embed_dim: int, *, rngs: nnx.Rngs, **options: Any):
        del embed_dim, rngs, options

    def __call__(
        self, x: Float[Array, "d b n"], *, rngs: Key[Array, "b 2"] | None = None
    ) -> Float[Array, "d b n"]:
        """Zeros."""
        del rngs
        return jnp.zeros_like(x)
