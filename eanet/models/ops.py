"""Operations with gradients written by hand, where autodiff's are slow or store too much.

Tokens are columns: features are the first axis, `[d, B, N]`. A linear map is then `kernel.T @ x`
with long rows, which XLA multiplies fast in both directions without transposed copies, and every
loop over tokens vectorises, for any d.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

_RESIDUAL = "residual"


def residual(x: Array) -> Array:
    """Marks what a block saves for its backward pass.

    What else the gradients need is drawn or computed again, for less than it costs to store.
    """
    return checkpoint_name(x, _RESIDUAL)


def saving_residuals(function: Callable[..., Any]) -> Callable[..., Any]:
    """The body of a loop of which only what is marked as `residual` is saved for the gradients."""
    policy = jax.checkpoint_policies.save_only_these_names(_RESIDUAL)
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


def _statistics(x, epsilon):
    mean = jnp.mean(x, axis=0, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=0, keepdims=True) + epsilon)
    return mean, inverse


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def standardize(x: Float[Array, "d ..."], epsilon: float) -> Float[Array, "d ..."]:
    """Zero mean and unit variance over the first axis: layer normalisation without its scale."""
    mean, inverse = _statistics(x, epsilon)
    return (x - mean) * inverse


def _standardize_forward(x, epsilon):
    mean, inverse = _statistics(x, epsilon)
    normalized, inverse = residual((x - mean) * inverse), residual(inverse)
    return normalized, (normalized, inverse)


def _standardize_backward(epsilon, saved, gradient):
    normalized, inverse = saved
    mean = jnp.mean(gradient, axis=0, keepdims=True)
    slope = jnp.mean(gradient * normalized, axis=0, keepdims=True)
    # Without the barrier XLA:CPU recomputes this whole expression inside transposing copies.
    return (jax.lax.optimization_barrier((gradient - mean - normalized * slope) * inverse),)


standardize.defvjp(_standardize_forward, _standardize_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def softmax(logits: Float[Array, "..."], axis: int, save: bool) -> Float[Array, "..."]:
    """Softmax over an axis; its value is all that its gradient needs, saved where `save`."""
    return jax.nn.softmax(logits, axis)


def _softmax_forward(logits, axis, save):
    weights = jax.nn.softmax(logits, axis)
    if save:
        weights = residual(weights)
    return weights, weights


def _softmax_backward(axis, save, weights, gradient):
    inner = weights * gradient
    return (inner - weights * jnp.sum(inner, axis, keepdims=True),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def double_normalization(
    logits: Float[Array, "s h b n"], epsilon: float, save: bool
) -> Float[Array, "s h b n"]:
    """Softmax over the tokens n, then division by `epsilon +` the sum over the units s.

    What the gradient needs is saved where `save`.
    """
    return _double_normalization(logits, epsilon)[0]


def _double_normalization(logits, epsilon):
    weights = jax.nn.softmax(logits, axis=3)
    sums = epsilon + jnp.sum(weights, axis=0, keepdims=True)
    return weights / sums, sums


def _double_normalization_forward(logits, epsilon, save):
    attention, sums = _double_normalization(logits, epsilon)
    if save:
        attention, sums = residual(attention), residual(sums)
    return attention, (attention, sums)


def _double_normalization_backward(epsilon, save, saved, gradient):
    attention, sums = saved
    # Through the division: the gradient with respect to the softmax, times its value.
    inner = attention * (gradient - jnp.sum(gradient * attention, axis=0, keepdims=True))
    # Through the softmax, whose value is attention * sums.
    return (inner - attention * sums * jnp.sum(inner, axis=3, keepdims=True),)


double_normalization.defvjp(_double_normalization_forward, _double_normalization_backward)
