"""The modules that blocks are made of. Tokens are columns, `[d, B, N]`, see `eanet.models.ops`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet.models.dropout import dropout, rngs_for
from eanet.models.ops import project, residual, standardize


class Kernel(nnx.Param):
    """The matrix of a linear map: the kind of parameter that weight decay and Muon are for.

    Args:
      value: the matrix, or an array whose axes are parts of its rows and columns.
      axes: for each axis of `value` whether it is one of the inputs, "i", or of the outputs, "o".
    """

    def __init__(self, value: Any, axes: str = "io", **metadata: Any):
        super().__init__(value, axes=axes, **metadata)


class LayerNorm(nnx.Module):
    """Layer normalisation over the features; statistics in float32, output in `dtype`."""

    def __init__(
        self,
        embed_dim: int,
        *,
        epsilon: float = 1e-5,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        self.scale = nnx.Param(jnp.ones(embed_dim, param_dtype))
        self.bias = nnx.Param(jnp.zeros(embed_dim, param_dtype))
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: Float[Array, "d b n"]) -> Float[Array, "d b n"]:
        """Normalises, scales and shifts."""
        normalized = standardize(x.astype(jnp.float32), self.epsilon)
        scaled = normalized * self.scale[:, None, None] + self.bias[:, None, None]
        return scaled.astype(self.dtype)


class Linear(nnx.Module):
    """`kernel.T @ x + bias` over the first axis; Glorot uniform kernel, zero bias, as in Keras."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        glorot = nnx.initializers.glorot_uniform()
        self.kernel = Kernel(glorot(rngs.params(), (inputs, outputs), param_dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "inputs *batch"]) -> Float[Array, "outputs *batch"]:
        """Maps the first axis."""
        columns = x.astype(self.dtype).reshape(len(x), -1)
        y = project(self.kernel[...].astype(self.dtype), columns) + self.bias[:, None]
        return y.astype(self.dtype).reshape(-1, *x.shape[1:])


class Mlp(nnx.Module):
    """Two layers of `Linear` with exact GELU between them and dropout after each."""

    def __init__(self, embed_dim: int, mlp_dim: int, *, dropout_rate: float = 0.0, **options: Any):
        self.hidden = Linear(embed_dim, mlp_dim, **options)
        self.out = Linear(mlp_dim, embed_dim, **options)
        self.dropout_rate = dropout_rate

    def __call__(
        self, x: Float[Array, "d b n"], *, rngs: Key[Array, "b 2"] | None = None
    ) -> Float[Array, "d b n"]:
        """Maps every token; `rngs`, two keys for each example, switch dropout on."""
        hidden = jax.nn.gelu(residual(self.hidden(x)), approximate=False)
        hidden = residual(dropout(hidden, self.dropout_rate, rngs_for(rngs, 0)))
        return dropout(self.out(hidden), self.dropout_rate, rngs_for(rngs, 1))
