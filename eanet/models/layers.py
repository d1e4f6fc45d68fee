"""The small parts that attention and blocks are made of.

Tokens are columns: inside the model their features are the first axis, `[d, B, N]`. A linear map is
then `kernel.T @ x` with long rows, which XLA multiplies fast in both directions without transposed
copies, and every loop over tokens vectorises, for any d.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from eanet.prng import bits_per_example

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


@jax.custom_vjp
def project(
    kernel: Float[Array, "inputs outputs"], x: Float[Array, "inputs m"]
) -> Float[Array, "outputs m"]:
    """`kernel.T @ x`, sums in float32."""
    return _dot(_transpose(kernel), x)


def _project_forward(kernel, x):
    return project(kernel, x), (kernel, x)


# XLA:CPU multiplies fast only if the left operand is contracted over its minor axis; the products
# that autodiff writes are not of this kind (three times slower).
def _project_backward(saved, gradient):
    kernel, x = saved
    gradient = gradient.astype(x.dtype)
    return (
        _dot(x, gradient.T).astype(kernel.dtype),
        _dot(kernel, gradient).astype(x.dtype),
    )


project.defvjp(_project_forward, _project_backward)


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
    batch_axis: int = 1,
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


def keys_for_turn(keys: Key[Array, " b"] | None, index: Array) -> Key[Array, " b"] | None:
    """The keys of one turn of a loop; no keys stay no keys."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, index)


def _layer_norm_statistics(x, epsilon):
    mean = jnp.mean(x, axis=0, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=0, keepdims=True) + epsilon)
    return mean, inverse


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalize(x: Float[Array, "d ..."], epsilon: float) -> Float[Array, "d ..."]:
    mean, inverse = _layer_norm_statistics(x, epsilon)
    return (x - mean) * inverse


def _normalize_forward(x, epsilon):
    mean, inverse = _layer_norm_statistics(x, epsilon)
    normalized, inverse = kept((x - mean) * inverse), kept(inverse)
    return normalized, (normalized, inverse)


def _normalize_backward(epsilon, saved, gradient):
    normalized, inverse = saved
    mean = jnp.mean(gradient, axis=0, keepdims=True)
    slope = jnp.mean(gradient * normalized, axis=0, keepdims=True)
    # Without the barrier XLA:CPU recomputes this whole expression inside transposing copies.
    return (jax.lax.optimization_barrier((gradient - mean - normalized * slope) * inverse),)


_normalize.defvjp(_normalize_forward, _normalize_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def softmax(logits: Float[Array, "..."], axis: int, keep: bool) -> Float[Array, "..."]:
    """Softmax over an axis; its value is all that its gradient needs, and `kept` where `keep`."""
    return jax.nn.softmax(logits, axis)


def _softmax_forward(logits, axis, keep):
    weights = jax.nn.softmax(logits, axis)
    if keep:
        weights = kept(weights)
    return weights, weights


def _softmax_backward(axis, keep, weights, gradient):
    inner = weights * gradient
    return (inner - weights * jnp.sum(inner, axis, keepdims=True),)


softmax.defvjp(_softmax_forward, _softmax_backward)


class Kernel(nnx.Param):
    """The matrix of a linear map: the kind of parameter that weight decay and Muon are for."""


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
        normalized = _normalize(x.astype(jnp.float32), self.epsilon)
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
