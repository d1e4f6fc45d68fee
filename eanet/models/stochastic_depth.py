"""Stochastic depth: in training, images skip branches of blocks at random.

Huang et al., "Deep Networks with Stochastic Depth" (arXiv 1603.09382). Of L blocks the l-th one,
counted from 1, adds each of its branches to an image's tokens with probability `1 − p·l/L`, divided
by that probability: the expectation is what is added without it, as it always is in evaluation.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from eanet.prng import bits_per_example


def rates_of_blocks(last: float, depth: int) -> Float[np.ndarray, " depth"] | None:
    """With which probability each block is skipped, linearly up to the last; None for never."""
    if last == 0.0:
        return None
    return np.linspace(last / depth, last, depth, dtype=np.float32)


def skip_at_random(
    branch: Float[Array, "d b n"], rate: Float[Array, ""], rngs: Key[Array, " b"]
) -> Float[Array, "d b n"]:
    """What a branch adds to each image: nothing with probability `rate`, else more in proportion.

    Each image has its own key, so what it skips does not depend on its batch.
    """
    bits = bits_per_example(rngs, rngs.shape, batch_axis=0)
    kept = bits >= (rate * 2.0**32).astype(jnp.uint32)
    factors = jnp.where(kept, 1 / (1 - rate), 0.0).astype(branch.dtype)
    return branch * factors[None, :, None]
