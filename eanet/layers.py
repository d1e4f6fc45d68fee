"""The small parts that attention and blocks are made of."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from eanet.random_bits import bits_per_example

_KEPT = "kept"


def kept(x: Array) -> Array:
    """Marks what a block keeps of its forward pass for its gradients.

    What else they need is drawn or computed again, for less than it costs to store and load.
    """
    return checkpoint_name(x, _KEPT)


def keeping_what_is_marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The body of a loop, of which only what is `kept` is stored from one pass to the other."""
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    return jax.checkpoint(function, policy=policy, prevent_cse=False)


def _transpose(matrix: Float[Array, "rows columns"]) -> Float[Array, "columns rows"]:
    """A transposed copy that XLA does not fold into the product it is meant for."""
    return jax.lax.optimization_barrier(matrix.T)


def _dot(left: Float[Array, "m k"], right: Float[Array, "k n"]) -> Float[Array, "m n"]:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


# XLA:CPU multiplies fast only if the left operand is contracted over its minor axis; the products
# that autodiff writes are often not of this kind (three times slower). Hence the rules below, in
# which the smaller operand or result is transposed explicitly.


@jax.custom_vjp
def project(x: Float[Array, "m inputs"], kernel: Float[Array, "inputs n"]) -> Float[Array, "m n"]:
    """`x @ kernel`, sums in float32."""
    return _dot(x, kernel)


def _project_forward(x, kernel):
    return _dot(x, kernel), (x, kernel)


def _project_backward(saved, gradient):
    x, kernel = saved
    gradient = gradient.astype(x.dtype)
    return _dot(gradient, kernel.T).astype(x.dtype), _dot(_transpose(x), gradient).astype(
        kernel.dtype
    )


project.defvjp(_project_forward, _project_backward)


@jax.custom_vjp
def similarity(
    kernel: Float[Array, "units d"], rows: Float[Array, "m d"]
) -> Float[Array, "units m"]:
    """`kernel @ rows.T`, sums in float32: products of every unit with every row."""
    return _dot(kernel, rows.T)


def _similarity_forward(kernel, rows):
    return _dot(kernel, rows.T), (kernel, rows)


def _similarity_backward(saved, gradient):
    kernel, rows = saved
    gradient = gradient.astype(rows.dtype)
    return _dot(gradient, rows).astype(kernel.dtype), _mixture(kernel, gradient).astype(rows.dtype)


similarity.defvjp(_similarity_forward, _similarity_backward)


def _mixture(kernel, weights):
    return _transpose(jax.lax.optimization_barrier(_dot(_transpose(kernel), weights)))


@jax.custom_vjp
def mixture(
    kernel: Float[Array, "units d"], weights: Float[Array, "units m"]
) -> Float[Array, "m d"]:
    """`weights.T @ kernel`, sums in float32: for every row a weighted sum of the units."""
    return _mixture(kernel, weights)


def _mixture_forward(kernel, weights):
    return _mixture(kernel, weights), (kernel, weights)


def _mixture_backward(saved, gradient):
    kernel, weights = saved
    gradient = gradient.astype(weights.dtype)
    return (
        _dot(weights, gradient).astype(kernel.dtype),
        _dot(kernel, gradient.T).astype(weights.dtype),
    )


mixture.defvjp(_mixture_forward, _mixture_backward)


@jax.custom_vjp
def combine(
    kernel: Float[Array, "outputs inputs"], x: Float[Array, "inputs m"]
) -> Float[Array, "outputs m"]:
    """`kernel @ x`, sums in float32: the rows of `x`, which are long, combined into others."""
    return _dot(kernel, x)


def _combine_forward(kernel, x):
    return _dot(kernel, x), (kernel, x)


def _combine_backward(saved, gradient):
    kernel, x = saved
    gradient = gradient.astype(x.dtype)
    return (
        _dot(gradient, x.T).astype(kernel.dtype),
        _dot(_transpose(kernel), gradient).astype(x.dtype),
    )


combine.defvjp(_combine_forward, _combine_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 3))
def _dropout(x, rate, keys, batch_axis):
    keep = bits_per_example(keys, x.shape, batch_axis) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def _dropout_forward(x, rate, keys, batch_axis):
    return _dropout(x, rate, keys, batch_axis), keys


def _dropout_backward(rate, batch_axis, keys, gradient):
    # Drawn again: to store and load a mask costs XLA:CPU ten times what the bits cost.
    return _dropout(gradient, rate, keys, batch_axis), None


_dropout.defvjp(_dropout_forward, _dropout_backward)


def dropout(
    x: Float[Array, "..."],
    rate: float,
    keys: Key[Array, "batch"] | None,
    *,
    batch_axis: int = 0,
) -> Float[Array, "..."]:
    """Sets entries to zero with probability `rate` and divides the others by `1 - rate`.

    Each example, a slice along `batch_axis`, has its own key, so what is dropped in it depends
    neither on the batch it is in nor on how the batch is split over devices and passes. Without
    keys `x` comes back unchanged.
    """
    return x if keys is None or rate == 0.0 else _dropout(x, rate, keys, batch_axis)


def keys_for(keys: Array | None, index: int | slice) -> Array | None:
    """The keys of one part, `keys[:, index]`; no keys stay no keys."""
    return None if keys is None else keys[:, index]


def _layer_norm_statistics(x, epsilon):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True) + epsilon)
    return mean, inverse


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalize(x: Float[Array, "... d"], epsilon: float) -> Float[Array, "... d"]:
    mean, inverse = _layer_norm_statistics(x, epsilon)
    return (x - mean) * inverse


def _normalize_forward(x, epsilon):
    mean, inverse = _layer_norm_statistics(x, epsilon)
    normalized, inverse = kept((x - mean) * inverse), kept(inverse)
    return normalized, (normalized, inverse)


def _normalize_backward(epsilon, saved, gradient):
    normalized, inverse = saved
    mean = jnp.mean(gradient, axis=-1, keepdims=True)
    slope = jnp.mean(gradient * normalized, axis=-1, keepdims=True)
    # Without the barrier XLA:CPU recomputes this whole expression inside transposing copies.
    return (jax.lax.optimization_barrier((gradient - mean - normalized * slope) * inverse),)


_normalize.defvjp(_normalize_forward, _normalize_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def softmax(logits: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Softmax over an axis; its value is all that its gradient needs."""
    return jax.nn.softmax(logits, axis)


def _softmax_forward(logits, axis):
    weights = kept(jax.nn.softmax(logits, axis))
    return weights, weights


def _softmax_backward(axis, weights, gradient):
    inner = weights * gradient
    return (inner - weights * jnp.sum(inner, axis, keepdims=True),)


softmax.defvjp(_softmax_forward, _softmax_backward)


class Kernel(nnx.Param):
    """The matrix of a linear map: the kind of parameter that weight decay and Muon are for."""


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis; statistics in float32, output in `dtype`."""

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

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Normalises, scales and shifts."""
        normalized = _normalize(x.astype(jnp.float32), self.epsilon)
        scaled = normalized * self.scale[None, None, :] + self.bias[None, None, :]
        return scaled.astype(self.dtype)


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis; Glorot uniform kernel, zero bias, as in Keras."""

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

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Maps the last axis."""
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        y = project(rows, self.kernel[...].astype(self.dtype)) + self.bias[None, :]
        return y.astype(self.dtype).reshape(*x.shape[:-1], y.shape[-1])
