import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eanet import platforms
from eanet.errors import UserError
from eanet.models import self_attention
from eanet.models.attention import NORMS, ExternalAttention
from eanet.models.attention_fast import FastExternalAttention
from eanet.models.self_attention import SelfAttention
from eanet.prng import random_key
from tests.helpers import reference
from tests.helpers.compiler import AS_FOR_USERS

# tokens, embed_dim, num_heads, head_dim, memory_size
FOLDED, UNFOLDED = (5, 6, 2, 4, 3), (5, 6, 2, 2, 8)
CASES = {
    "folded": (FOLDED, "double"),
    "folded, over tokens": (FOLDED, "softmax_tokens"),
    "folded, over units": (FOLDED, "softmax_memory"),
    "folded, over neither": (FOLDED, "none"),
    "unfolded": (UNFOLDED, "double"),
    "unfolded, over units": (UNFOLDED, "softmax_memory"),
    "unfolded, over neither": (UNFOLDED, "none"),
    "one head": ((4, 5, 1, 3, 2), "double"),
    "one token": ((1, 4, 2, 3, 3), "double"),
    "one unit": ((4, 5, 2, 3, 1), "double"),
}


def random(shape, seed, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def randomised(build, scale=0.5):
    """The module that `build()` makes, with every parameter at random, biases too."""
    graphdef, state = nnx.split(nnx.eval_shape(build))
    leaves, tree = jax.tree.flatten(state)
    leaves = [random(leaf.shape, i, scale).astype(leaf.dtype) for i, leaf in enumerate(leaves)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, leaves))


def make(shape=FOLDED, norm="double", scale=0.5, kind=FastExternalAttention, **options):
    """External attention at random, and tokens for it."""
    tokens, embed_dim, num_heads, head_dim, memory_size = shape
    options |= {"head_dim": head_dim, "memory_size": memory_size, "norm": norm}
    module = randomised(
        lambda: kind(embed_dim, num_heads=num_heads, rngs=nnx.Rngs(0), **options),
        scale,
    )
    return module, random((2, tokens, embed_dim), seed=1)


def parameters(module):
    return nnx.to_pure_dict(nnx.state(module))


# Tokens are rows here, [B, N, d], as in the formulas, and columns, [d, B, N], in most modules.
# Everything runs compiled, because a hundred small compilations take longer than one.
compiled = partial(jax.jit, static_argnums=0, compiler_options=AS_FOR_USERS)


def by_rows(module, x, **rngs):
    if getattr(module, "columns", True):
        return module(x.transpose(2, 0, 1), **rngs).transpose(1, 2, 0)
    return module(x, **rngs)


@compiled
def _call(graphdef, state, x, keys):
    module = nnx.merge(graphdef, state)
    return by_rows(module, x, rngs=keys), module.weights(
        x.transpose(2, 0, 1) if module.columns else x
    )


def call(module, x, keys=None):
    return _call(*nnx.split(module), x, keys)[0]


def weights_of(module, x):
    return _call(*nnx.split(module), x, None)[1]


@compiled
def _gradients(graphdef, params, x, weights, keys):
    def loss(params, x):
        return jnp.sum(weights * by_rows(nnx.merge(graphdef, nnx.State(params)), x, rngs=keys))

    return jax.grad(loss, (0, 1))(params, x)


def gradients(module, x, weights, keys=None):
    """Of sum(weights · module(x)) with respect to the parameters and x."""
    return _gradients(nnx.graphdef(module), parameters(module), x, weights, keys)


def assert_near(actual, expected, tolerance):
    """To a tolerance relative to the largest expected entry."""
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, 0, tolerance * scale)


@pytest.mark.parametrize("kind", [ExternalAttention, FastExternalAttention])
@pytest.mark.parametrize("case", CASES)
def test_values_and_all_gradients_are_those_of_the_formula(case, kind):
    shape, norm = CASES[case]
    module, x = make(shape, norm, kind=kind)
    weights = random(x.shape, seed=2)
    params = reference.to_float64(parameters(module))
    x64 = np.asarray(x, np.float64)

    if kind is FastExternalAttention:
        assert module.folded == case.startswith(("folded", "one"))
    assert_near(call(module, x), reference.external_attention(params, x64, norm), 1e-5)

    params_gradient, x_gradient = gradients(module, x, weights)
    weights = np.asarray(weights)
    for name, value in params.items():

        def loss(value, name=name):
            y = reference.external_attention({**params, name: value}, x64, norm)
            return (weights * y).sum()

        assert_near(params_gradient[name], reference.gradient(loss, value), 1e-4)

    def loss_of_x(x):
        return (weights * reference.external_attention(params, x, norm)).sum()

    assert_near(x_gradient, reference.gradient(loss_of_x, x64), 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_the_plain_form_and_the_fast_one_are_the_same_function(case):
    """Values, maps and gradients of all parameters; with dropout too where one mask is drawn."""
    shape, norm = CASES[case]
    folded = case.startswith(("folded", "one"))
    plain, x = make(shape, norm, kind=ExternalAttention, dropout_rate=0.4)
    fast, _ = make(shape, norm, kind=FastExternalAttention, dropout_rate=0.4)
    jax.tree.map(np.testing.assert_array_equal, parameters(plain), parameters(fast))
    keys = jax.random.split(random_key(0), (2, 2)) if folded else None
    assert_near(call(plain, x, keys), np.asarray(call(fast, x, keys), np.float64), 1e-5)
    assert_near(weights_of(plain, x), np.asarray(weights_of(fast, x), np.float64), 1e-6)
    weights = random(x.shape, seed=2)
    for ours, theirs in zip(
        jax.tree.leaves(gradients(plain, x, weights, keys)),
        jax.tree.leaves(gradients(fast, x, weights, keys)),
        strict=True,
    ):
        assert_near(ours, np.asarray(theirs, np.float64), 1e-4)


@pytest.mark.parametrize("kind", [ExternalAttention, FastExternalAttention])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [FOLDED, UNFOLDED])
def test_weights_are_the_normalised_attention_in_float32(shape, norm, kind):
    module, x = make(shape, norm, kind=kind)
    expected = reference.external_weights(
        reference.to_float64(parameters(module)), np.asarray(x, np.float64), norm
    )
    weights = weights_of(module, x)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, expected.swapaxes(1, 2), atol=1e-6)


def test_the_axis_of_each_normalisation():
    by_norm = {norm: np.asarray(weights_of(*make(norm=norm))) for norm in NORMS}
    np.testing.assert_allclose(by_norm["softmax_tokens"].sum(2), 1, atol=1e-6)
    np.testing.assert_allclose(by_norm["softmax_memory"].sum(3), 1, atol=1e-6)
    np.testing.assert_allclose(by_norm["double"].sum(3), 1, atol=1e-6)
    # The first axis of the double one is that of the tokens, the second divides over the units.
    divided = by_norm["softmax_tokens"] / by_norm["softmax_tokens"].sum(3, keepdims=True)
    np.testing.assert_allclose(by_norm["double"], divided, atol=1e-6)
    assert np.abs(by_norm["double"].sum(2) - 1).max() > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_tokens_in_another_order_give_the_same_outputs_in_that_order(norm):
    module, x = make(norm=norm)
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(call(module, x[:, order]), call(module, x)[:, order], atol=1e-5)


@pytest.mark.parametrize("shape", [FOLDED, UNFOLDED])
def test_the_order_of_the_memory_units_means_nothing(shape):
    module, x = make(shape, "softmax_memory")
    before = call(module, x)
    order = np.random.default_rng(0).permutation(shape[-1])
    module.key_memory[...] = module.key_memory[:, order]
    module.key_memory_bias[...] = module.key_memory_bias[order]
    module.value_memory[...] = module.value_memory[order]
    np.testing.assert_allclose(call(module, x), before, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_large_logits_stay_finite(norm):
    module, x = make(norm=norm, scale=1.0)
    x = x * 1e4
    y = call(module, x)
    assert np.isfinite(y).all() and np.isfinite(weights_of(module, x)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients(module, x, x)))
    logits = np.abs(np.log(np.maximum(np.asarray(weights_of(module, x / 1e4)), 1e-30)))
    assert logits.max() > 1  # so that 1e4 times as much is much


@pytest.mark.parametrize("norm", NORMS)
def test_a_softmax_over_tokens_cancels_what_is_constant_per_unit(norm):
    module, x = make(norm=norm)
    params_gradient, _ = gradients(module, x, random(x.shape, seed=2))
    for name in ("query_bias", "key_memory_bias"):
        felt = bool(np.any(np.asarray(params_gradient[name])))
        assert felt == (norm in ("softmax_memory", "none"))


def test_tokens_see_each_other_through_sums_per_unit_only():
    """A token's output depends on the others by H·(S − 1) numbers, on no token by itself."""
    heads, units = 1, 3
    module, x = make((4, 6, heads, 5, units))
    jacobian = jax.jit(
        jax.jacrev(lambda others: by_rows(module, jnp.concatenate([x[:1, :1], others], 1))[0, 0])
    )
    matrix = np.asarray(jacobian(x[:1, 1:])).reshape(6, -1)
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert singular[heads * (units - 1) - 1] > 1e-3 > 1e-5 > singular[heads * (units - 1)]


@pytest.mark.parametrize("norm", ["softmax_memory", "none"])
def test_without_a_softmax_over_tokens_no_token_sees_another(norm):
    module, x = make(norm=norm)
    other = x.at[:, 1:].add(1)
    np.testing.assert_array_equal(call(module, x)[:, 0], call(module, other)[:, 0])


def test_dropout_keeps_the_expectation():
    module, x = make(dropout_rate=0.4)
    count = 20_000
    keys = jax.random.split(random_key(0), (count, 2))
    many = call(module, jnp.broadcast_to(x[:1], (count, *x.shape[1:])), keys)
    error = np.std(many, axis=0) / math.sqrt(count)
    assert (np.abs(np.mean(many, axis=0) - call(module, x[:1])[0]) < 5 * error).all()
    assert 0.35 < np.mean(np.asarray(many) == 0) < 0.45


def test_attention_dropout_removes_single_weights_of_single_heads():
    """With value memory and output set to the identity the dropped weights are the output."""
    tokens, units = 50, 20
    module, x = make((tokens, units, 1, units, units), dropout_rate=0.25)
    for kernel in (module.value_memory, module.out_kernel):
        kernel[...] = jnp.eye(units).reshape(kernel.shape)
    module.value_memory_bias[...] = module.out_bias[...] = jnp.zeros(units)
    weights = np.asarray(weights_of(module, x))[:, 0]
    read = np.asarray(call(module, x, jax.random.split(random_key(0), (2, 2))))
    kept = read != 0
    np.testing.assert_allclose(read[kept], weights[kept] / 0.75**2, rtol=1e-4)
    assert abs(kept.mean() - 0.75**2) < 0.05


@pytest.mark.parametrize("shape", [FOLDED, UNFOLDED])
def test_each_head_drops_by_itself(shape):
    """Of two equal heads that are subtracted from each other nothing is left but what differs."""
    module, x = make(shape, dropout_rate=0.5)
    for parameter in (module.query_kernel, module.query_bias):
        first = jnp.take(parameter[...], 0, axis=-2)[..., None, :]
        parameter[...] = jnp.broadcast_to(first, parameter.shape)
    out = module.out_kernel[...]
    module.out_kernel[...] = jnp.stack([out[0], -out[0]])
    module.out_bias[...] = jnp.zeros_like(module.out_bias)
    assert np.abs(call(module, x)).max() < 1e-6
    y = np.asarray(call(module, x, jax.random.split(random_key(0), (2, 2))))
    assert np.mean(np.abs(y) > 1e-3) > 0.3


@pytest.mark.parametrize("shape", [FOLDED, UNFOLDED])
def test_bfloat16_is_close_to_float32(shape):
    exact, x = make(shape)
    rough, _ = make(shape, dtype=jnp.bfloat16)
    assert call(rough, x).dtype == jnp.bfloat16
    assert weights_of(rough, x).dtype == jnp.float32
    assert_near(call(rough, x), np.asarray(call(exact, x), np.float64), 0.02)
    assert not np.array_equal(np.asarray(call(rough, x), np.float32), call(exact, x))


def test_jit_changes_nothing():
    module, x = make(UNFOLDED, dropout_rate=0.3)
    keys = jax.random.split(random_key(0), (2, 2))
    np.testing.assert_allclose(call(module, x, keys), by_rows(module, x, rngs=keys), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6, 2, 4, 4), UNFOLDED])
@pytest.mark.parametrize("norm", ["double", "softmax_memory"])
def test_groups_of_units_are_normalised_by_themselves(shape, norm):
    """In both forms: the weights, the outputs and all gradients."""
    plain, x = make(shape, norm, kind=ExternalAttention, norm_groups=2)
    fast, _ = make(shape, norm, kind=FastExternalAttention, norm_groups=2)
    assert fast.folded == (shape != UNFOLDED)
    params = reference.to_float64(parameters(plain))
    expected = reference.external_weights(params, np.asarray(x, np.float64), norm, 2)
    for module in (plain, fast):
        weights = np.asarray(weights_of(module, x), np.float64)
        np.testing.assert_allclose(weights, expected.swapaxes(1, 2), atol=1e-6)
        np.testing.assert_allclose(weights[..., ::2].sum(-1), 1, atol=1e-6)
    weights = random(x.shape, seed=2)
    found, of_x = gradients(plain, x, weights)

    def loss(params):
        y = reference.external_attention(params, np.asarray(x, np.float64), norm, 2)
        return (np.asarray(weights) * y).sum()

    for name, value in params.items():
        wanted = reference.gradient(lambda v, name=name: loss({**params, name: v}), value)
        assert_near(found[name], wanted, 1e-4)
    same, of_x_too = gradients(fast, x, weights)
    assert_near(of_x, np.asarray(of_x_too, np.float64), 1e-4)
    for name in params:
        assert_near(found[name], np.asarray(same[name], np.float64), 1e-4)


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ("double", "model.norm_groups=2 does not divide model.memory_size=3"),
        ("softmax_tokens", "model.norm_groups=2 has no effect with model.norm=softmax_tokens"),
        ("none", "model.norm_groups=2 has no effect with model.norm=none"),
    ],
)
def test_groups_that_cannot_be_are_refused(norm, message):
    with pytest.raises(UserError, match=message):
        make(norm=norm, norm_groups=2)


def test_an_unknown_norm_is_refused(unchecked_types):
    with pytest.raises(UserError, match=r"model\.norm='triple' must be one of double, "):
        make(norm="triple")


def make_self(num_heads=2, head_dim=3, **options):
    options |= {"num_heads": num_heads, "head_dim": head_dim}
    module = randomised(lambda: SelfAttention(6, rngs=nnx.Rngs(0), **options))
    return module, random((2, 5, 6), seed=1)


# The last in three chunks: of two tokens, two, and one.
@pytest.mark.parametrize("num_heads, head_dim, most", [(2, 3, 2**20), (1, 8, 2**20), (2, 4, 25)])
def test_self_attention_is_the_plain_formula(num_heads, head_dim, most, monkeypatch):
    monkeypatch.setattr(platforms, "attention_weights_at_once", lambda: most)
    monkeypatch.setattr(self_attention, "_LEAST_QUERIES", 1)
    module, x = make_self(num_heads, head_dim)
    params = reference.to_float64(parameters(module))
    x64 = np.asarray(x, np.float64)
    assert_near(call(module, x), reference.self_attention(params, x64, num_heads), 1e-5)
    np.testing.assert_allclose(
        weights_of(module, x), reference.self_weights(params, x64, num_heads), atol=1e-6
    )

    weights = random(x.shape, seed=2)
    params_gradient, x_gradient = gradients(module, x, weights)
    weights = np.asarray(weights)

    def loss(params):
        return (weights * reference.self_attention(params, x64, num_heads)).sum()

    for name in params:
        for part in ("kernel", "bias"):

            def loss_of(value, name=name, part=part):
                return loss({**params, name: {**params[name], part: value}})

            expected = reference.gradient(loss_of, params[name][part])
            assert_near(params_gradient[name][part], expected, 1e-4)
    expected = reference.gradient(
        lambda x: (weights * reference.self_attention(params, x, num_heads)).sum(), x64
    )
    assert_near(x_gradient, expected, 1e-4)


def test_self_attention_is_that_of_jax():
    module, x = make_self()

    @jax.jit
    def expected(x):
        parts = (module.query, module.key, module.value)
        heads = [by_rows(part, x).reshape(2, 5, 2, 3) for part in parts]
        return by_rows(module.out, jax.nn.dot_product_attention(*heads).reshape(2, 5, 6))

    np.testing.assert_allclose(call(module, x), expected(x), atol=1e-5)


@pytest.mark.parametrize(
    "num_heads, tokens, queries",
    [(4, 128, 128), (4, 256, 128), (4, 257, 86), (4, 10**5, 16), (1, 1, 1), (1, 0, 0)],
)
def test_a_chunk_is_as_many_queries_as_fit_but_not_too_few(num_heads, tokens, queries):
    assert self_attention.queries_per_chunk(num_heads, tokens) == queries


def test_an_accelerator_asks_all_at_once_for_longer(monkeypatch):
    monkeypatch.setattr(platforms, "platform", lambda: "gpu")
    assert self_attention.queries_per_chunk(4, 1024) == 1024
    assert self_attention.queries_per_chunk(4, 4096) == 256


def test_chunks_of_self_attention_drop_each_weight_by_itself(monkeypatch):
    """Uniform weights 1/8 of eight one-hot tokens: the output shows which of them were dropped."""
    count, tokens, rate = 2000, 8, 0.5
    monkeypatch.setattr(platforms, "attention_weights_at_once", lambda: 3 * tokens)  # three chunks
    monkeypatch.setattr(self_attention, "_LEAST_QUERIES", 1)
    module = SelfAttention(
        tokens, num_heads=1, head_dim=tokens, dropout_rate=rate, rngs=nnx.Rngs(0)
    )
    for name, kernel in (("query", 0.0), ("value", 1.0), ("out", 1.0)):
        getattr(module, name).kernel[...] = kernel * jnp.eye(tokens)
    x = jnp.broadcast_to(jnp.eye(tokens), (count, tokens, tokens))
    keys = jax.random.split(random_key(0), (count, 2))
    kept = np.asarray(call(module, x, keys)).reshape(count, -1) * tokens * (1 - rate) ** 2
    np.testing.assert_allclose(kept[kept != 0], 1, rtol=1e-5)
    assert np.abs((kept != 0).mean(0) - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / count)
    related = np.corrcoef(kept.T) - np.eye(tokens**2)
    assert np.abs(related).max() < 5.5 / np.sqrt(count)


def test_memory_of_self_attention_is_linear_in_the_tokens():
    module, _ = make_self()
    graphdef, state = nnx.split(module)

    def temporary_bytes(tokens):
        def loss(x):
            return jnp.sum(nnx.merge(graphdef, state)(x))

        x = jax.ShapeDtypeStruct((6, 1, tokens), jnp.float32)
        program = jax.jit(jax.grad(loss)).lower(x).compile(AS_FOR_USERS)
        return program.memory_analysis().temp_size_in_bytes

    # The weights of all tokens would be 2 GB; those of a chunk are 2 MB, of which there are a few.
    assert temporary_bytes(16_384) < 15e6
    assert temporary_bytes(16_384) < 4 * temporary_bytes(4096)


def test_self_attention_drops_and_rounds():
    module, x = make_self(dropout_rate=0.5, dtype=jnp.bfloat16)
    y = call(module, x, jax.random.split(random_key(0), (2, 2)))
    assert y.dtype == jnp.bfloat16 and weights_of(module, x).dtype == jnp.float32
    assert 0.2 < np.mean(np.asarray(y) == 0) < 0.8
    exact, _ = make_self()
    assert_near(call(module, x), np.asarray(call(exact, x), np.float64), 0.03)
