"""Dropout whose mask is a function of each example's own key."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from eanet.prng import bits_per_example


@partial(jax.custom_vjp, nondiff_argnums=(1, 3))
def _dropout(x, rate, rngs, batch_axis):
    keep = bits_per_example(rngs, x.shape, batch_axis) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def _dropout_forward(x, rate, rngs, batch_axis):
    return _dropout(x, rate, rngs, batch_axis), rngs


def _dropout_backward(rate, batch_axis, rngs, gradient):
    # Drawn again: to store and load a mask costs XLA:CPU ten times what the bits cost.
    return _dropout(gradient, rate, rngs, batch_axis), None


_dropout.defvjp(_dropout_forward, _dropout_backward)


def dropout(
    x: Float[Array, "..."],
    rate: float,
    rngs: Key[Array, "batch"] | None,
    *,
    batch_axis: int = 1,
) -> Float[Array, "..."]:
    """Sets entries to zero with probability `rate` and divides the others by `1 - rate`.

    Each example, a slice along `batch_axis`, has its own key, so what is dropped in it depends
    neither on the batch it is in nor on how the batch is split over devices and microbatches.
    Without keys `x` comes back unchanged.
    """
    return x if rngs is None or rate == 0.0 else _dropout(x, rate, rngs, batch_axis)


def dropout_rows(
    x: Float[Array, "b n *features"], rate: float, rngs: Key[Array, "b"] | None
) -> Float[Array, "b n *features"]:
    """`dropout` of rows; for equal keys it drops what it drops of the same array as columns."""
    columns = (*reversed(range(2, x.ndim)), 0, 1)
    dropped = dropout(x.transpose(columns), rate, rngs, batch_axis=x.ndim - 2)
    return dropped.transpose(*(columns.index(axis) for axis in range(x.ndim)))


def rngs_for(rngs: Array | None, index: int | slice) -> Array | None:
    """The keys of one part, `rngs[:, index]`; no keys stay no keys."""
    return None if rngs is None else rngs[:, index]


def rngs_for_chunk(rngs: Key[Array, " b"] | None, index: Array) -> Key[Array, " b"] | None:
    """The keys of one chunk of a loop; no keys stay no keys."""
    return None if rngs is None else jax.vmap(jax.random.fold_in, (0, None))(rngs, index)


def split_rngs(rngs: Key[Array, "b"], parts: int) -> Key[Array, "b parts"]:
    """As many keys for each example."""
    return jax.vmap(lambda key: jax.random.split(key, parts))(rngs)
