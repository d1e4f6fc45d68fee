"""Mixing of neighbouring tokens, which external attention has no notion of.

A depthwise 3×3 convolution over the grid of tokens, as shifted slices of the flat row of tokens:
XLA:CPU's own grouped convolutions are slow (jax-ml/jax#23783).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from eanet.models.layers import Kernel

Grid = tuple[int, int]


class LocalMixing(nnx.Module):
    """`x + depthwise 3×3 convolution of x`, with zeros outside of the grid.

    Args:
      embed_dim: d; each feature has nine weights of its own.
      grid: rows and columns of the tokens.
    """

    def __init__(
        self,
        embed_dim: int,
        grid: Grid,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        # Glorot uniform with nine inputs and nine outputs for each feature.
        limit = (6 / 18) ** 0.5
        self.kernel = Kernel(
            jax.random.uniform(
                rngs.params(), (embed_dim, 9, 1), param_dtype, minval=-limit, maxval=limit
            )
        )
        self.bias = nnx.Param(jnp.zeros(embed_dim, param_dtype))
        self.grid = grid
        self.dtype = dtype

    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.grid[0] * self.grid[1] * self.kernel.size

    def __call__(self, x: Float[Array, "d b n"]) -> Float[Array, "d b n"]:
        """Adds to each token what its neighbourhood gives."""
        kernel = self.kernel[..., 0].astype(self.dtype)
        mixed = depthwise(x, kernel, self.grid) + self.bias[:, None, None].astype(self.dtype)
        return x + mixed


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(
    x: Float[Array, "d b n"], kernel: Float[Array, "d 9"], grid: Grid
) -> Float[Array, "d b n"]:
    """Each feature's own 3×3 convolution: the sum over neighbours, weights in row-major order."""
    weights = kernel[:, :, None, None]
    return jnp.sum(
        jnp.stack([weights[:, index] * found for index, found in enumerate(_neighbours(x, grid))]),
        axis=0,
    )


def _neighbours(x: Array, grid: Grid) -> list[Array]:
    """Of every token the neighbour that each of the nine weights is for, zero outside."""
    rows, columns = grid
    padded = jnp.pad(x, ((0, 0), (0, 0), (columns + 1, columns + 1)))
    column = np.arange(rows * columns) % columns
    found = []
    for index in range(9):
        row_shift, column_shift = divmod(index, 3)
        start = row_shift * columns + column_shift
        neighbour = padded[:, :, start : start + rows * columns]
        # In the flat row, what lies beside the first column is the end of the row above.
        inside = (column + column_shift - 1 >= 0) & (column + column_shift - 1 < columns)
        found.append(neighbour * jnp.asarray(inside, x.dtype)[None, None, :])
    return found


def _depthwise_forward(x, kernel, grid):
    return depthwise(x, kernel, grid), (x, kernel)


def _depthwise_backward(grid, saved, gradient):
    x, kernel = saved
    of_kernel = [
        jnp.sum(gradient * neighbour, axis=(1, 2), dtype=jnp.float32)
        for neighbour in _neighbours(x, grid)
    ]
    # The transpose of a convolution is the one with the kernel turned round.
    of_x = depthwise(gradient, kernel[:, ::-1], grid)
    return of_x, jnp.stack(of_kernel, axis=1).astype(kernel.dtype)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)
