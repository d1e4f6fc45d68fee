import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eanet.models.dropout import dropout, rngs_for
from eanet.models.layers import LayerNorm, Linear
from eanet.models.ops import project
from eanet.prng import random_key
from tests.helpers import reference

drop = jax.jit(dropout, static_argnums=1, static_argnames="batch_axis")


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def float32(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_projection_and_its_gradients(dtype, tolerance):
    kernel, x, weights = random(4, 3), random(4, 7, seed=1), random(3, 7, seed=2)

    @jax.jit
    def everything(kernel, x):
        value, backward = jax.vjp(project, kernel, x)
        return value, backward(jnp.asarray(weights, jnp.float32))

    value, gradients = everything(jnp.asarray(kernel, dtype), jnp.asarray(x, dtype))
    assert value.dtype == jnp.float32  # sums are, whatever the operands are
    np.testing.assert_allclose(value, kernel.T @ x, atol=tolerance * 4)
    for gradient, slope in zip(gradients, (x @ weights.T, kernel @ weights), strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient.astype(jnp.float32), slope, atol=tolerance * 6)


def test_linear_maps_the_first_axis_of_any_shape():
    layer = Linear(4, 3, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.array([1.0, 2.0, 3.0])
    params = reference.to_float64(nnx.to_pure_dict(nnx.state(layer)))
    for shape in ((2, 4), (2, 5, 4), (2, 5, 3, 4)):
        x = random(*shape)
        y = layer(*float32(np.moveaxis(x, -1, 0)))
        np.testing.assert_allclose(np.moveaxis(y, 0, -1), reference.linear(params, x), atol=1e-5)


def test_layer_norm_and_its_gradients_are_the_formula():
    layer = LayerNorm(6)
    params = {"scale": random(6, seed=1), "bias": random(6, seed=2)}
    x, weights = 3 + 2 * random(2, 3, 6, seed=3), random(2, 3, 6, seed=4)
    x[0, 0] = 5.0  # a token without any variance
    graphdef = nnx.graphdef(layer)

    @jax.jit
    def everything(params, x):
        def loss(params, x):
            y = nnx.merge(graphdef, nnx.State(params))(x.transpose(2, 0, 1)).transpose(1, 2, 0)
            return jnp.sum(jnp.asarray(weights, jnp.float32) * y), y

        gradients, y = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return y, gradients

    y, (params_gradient, x_gradient) = everything(
        {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}, *float32(x)
    )
    expected = reference.layer_norm(params, x)
    np.testing.assert_allclose(y[0, 1:], expected[0, 1:], atol=1e-5)
    np.testing.assert_allclose(y[1:], expected[1:], atol=1e-5)
    # What the mean of 5.0 is off by when rounded is divided by sqrt(epsilon).
    np.testing.assert_allclose(y[0, 0], expected[0, 0], atol=5e-7 / np.sqrt(1e-5))

    def loss(params, x):
        return (weights * reference.layer_norm(params, x)).sum()

    # Without variance the slope is 1 / sqrt(epsilon), some hundreds.
    expected = reference.gradient(lambda x: loss(params, x), x)
    np.testing.assert_allclose(x_gradient, expected, rtol=1e-4, atol=1e-5)
    for name, value in params.items():
        expected = reference.gradient(
            lambda value, name=name: loss({**params, name: value}, x), value
        )
        np.testing.assert_allclose(params_gradient[name], expected, atol=1e-4)


def test_layer_norm_computes_in_float32_and_returns_its_dtype():
    x = jnp.asarray(300 + random(1, 4, 6), jnp.bfloat16)
    y = LayerNorm(6, dtype=jnp.bfloat16)(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert y.dtype == jnp.bfloat16
    params = {"scale": np.ones(6), "bias": np.zeros(6)}
    expected = reference.layer_norm(params, np.asarray(x, np.float64))
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.01)


@pytest.mark.parametrize(
    "rate, implementation",
    [(0.01, "counter"), (0.2, "counter"), (0.75, "counter"), (0.2, "threefry2x32")],
)
def test_dropout_drops_at_its_rate_and_scales_the_rest(rate, implementation):
    x = jnp.asarray(1 + np.abs(random(10, 20_000)), jnp.float32)
    keys = jax.random.split(random_key(3, implementation), 10)
    y = np.asarray(drop(x, rate, keys, batch_axis=0))
    dropped = y == 0
    np.testing.assert_allclose(y[~dropped], np.asarray(x)[~dropped] / (1 - rate), rtol=1e-6)
    error = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(dropped.mean() - rate) < 4 * error
    assert (abs(dropped.mean(1) - rate) < 4.5 * error * np.sqrt(10)).all()


def test_without_keys_or_rate_nothing_is_dropped():
    x = jnp.ones((3, 4))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.split(random_key(0), 3)) is x
    assert rngs_for(None, 0) is None


def test_dropout_keeps_the_type():
    x = jnp.ones((3, 400), jnp.bfloat16)
    y = drop(x, 0.5, jax.random.split(random_key(0), 3), batch_axis=0)
    assert y.dtype == jnp.bfloat16
    assert set(np.unique(y.astype(jnp.float32))) == {0.0, 2.0}


@pytest.mark.parametrize("batch_axis", [0, 1, 2])
def test_what_is_dropped_in_an_example_depends_on_its_key_alone(batch_axis):
    keys = jax.random.split(random_key(0), 6)
    example = (8, 9)
    masks = []
    for chosen in (slice(0, 6), np.array([4, 1]), slice(2, 3)):
        batch = keys[chosen]
        shape = (*example[:batch_axis], len(batch), *example[batch_axis:])
        mask = np.asarray(drop(jnp.ones(shape), 0.5, batch, batch_axis=batch_axis)) == 0
        masks.append(np.moveaxis(mask, batch_axis, 0))
    whole, pair, single = masks
    np.testing.assert_array_equal(pair, whole[[4, 1]])
    np.testing.assert_array_equal(single, whole[2:3])
    assert len({mask.tobytes() for mask in whole}) == 6


@pytest.mark.parametrize("batch_axis", [0, 2])
def test_the_gradient_drops_what_the_values_drop(batch_axis):
    x, weights = float32(random(6, 5, 6), random(6, 5, 6, seed=1))
    keys = jax.random.split(random_key(0), 6)

    def loss(x):
        return jnp.sum(weights * dropout(x, 0.3, keys, batch_axis=batch_axis))

    kept = np.asarray(drop(jnp.ones_like(x), 0.3, keys, batch_axis=batch_axis))
    assert 0 < (kept == 0).sum() < kept.size
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(x), weights * kept, rtol=1e-6)
