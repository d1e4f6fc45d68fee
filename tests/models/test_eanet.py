import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from eanet import devices
from eanet.errors import UserError
from eanet.models.costs import count_parameters, image_bytes, least_bytes
from eanet.models.eanet import EANet
from eanet.models.functional import split_model
from eanet.models.stems import Convolutions, Patches
from eanet.prng import random_key
from eanet.training import step
from eanet.training.batches import make_prepare, normalizer
from eanet.training.loss import make_loss
from eanet.training.metrics import means
from tests.helpers import reference, step_bounds
from tests.helpers.compiler import AS_FOR_USERS

SMALL = {
    "patch_size": 2,
    "embed_dim": 6,
    "depth": 2,
    "num_heads": 2,
    "head_dim": 4,
    "memory_size": 3,
    "mlp_dim": 5,
    "dropout_rate": 0.3,
}
SHAPE = (4, 6, 3)  # six tokens, not square
ATTENTIONS = {
    "external": {},
    "external, one norm": {"norm": "softmax_memory", "final_norm": True},
    "self": {"attention": "self", "final_norm": True},
    "none": {"attention": "none"},
    "external, with neighbours": {
        "stem": "convolutions",
        "local_mixing": True,
        "residual_scale": 0.1,
        "final_norm": True,
        "pooling": "attention",
    },
}


def random(*shape, seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def make(shape=SHAPE, classes=5, **options):
    """A model with every parameter at random, made without compiling an initialiser."""
    options = {**SMALL, **options}
    graphdef, state = nnx.split(
        nnx.eval_shape(lambda: EANet(classes, shape, rngs=nnx.Rngs(0), **options))
    )
    leaves, tree = jax.tree.flatten(state)
    leaves = [random(*x.shape, seed=i, scale=0.5).astype(x.dtype) for i, x in enumerate(leaves)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, leaves))


def parameters(model):
    return nnx.to_pure_dict(nnx.state(model))


@partial(jax.jit, static_argnums=0, compiler_options=AS_FOR_USERS)
def _call(graphdef, state, images, keys):
    return nnx.merge(graphdef, state)(images, rngs=keys)


def call(model, images, keys=None):
    return _call(*nnx.split(model), images, keys)


def plain(name):
    if name == "self":
        return partial(reference.self_attention, num_heads=SMALL["num_heads"])
    if name == "none":
        return None
    norm = ATTENTIONS[name].get("norm", "double")
    return partial(reference.external_attention, norm=norm)


def assert_like_the_formula(model, images, formula, keys=None):
    """Logits, and the slope along one direction for each parameter: so none is forgotten."""
    weights = random(len(images), 5, seed=1)
    graphdef = nnx.graphdef(model)

    @partial(jax.jit, compiler_options=AS_FOR_USERS)
    def value_and_gradient(params):
        def loss(params):
            logits = nnx.merge(graphdef, nnx.State(params))(images, rngs=keys)
            return jnp.sum(weights * logits), logits

        return jax.grad(loss, has_aux=True)(params)

    gradient, logits = value_and_gradient(parameters(model))
    params = reference.to_float64(parameters(model))
    weights = np.asarray(weights)
    expected = formula(params)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())

    def loss(params):
        return (weights * formula(params)).sum()

    gradient = reference.to_float64(gradient)
    zero = jax.tree.map(np.zeros_like, params)
    for index, path in enumerate(path for path, _ in jax.tree.leaves_with_path(params)):
        keys = [part.key for part in path]
        direction = jax.tree.map(np.copy, zero)
        chosen, value = direction, gradient
        for key in keys:
            chosen, value = chosen[key], value[key]
        chosen[...] = np.random.default_rng(index).normal(size=chosen.shape)
        slope = reference.slope(loss, params, direction)
        assert (value * chosen).sum() == pytest.approx(slope, rel=1e-3, abs=1e-3), keys


@pytest.mark.parametrize("name", ATTENTIONS)
def test_logits_and_gradients_are_those_of_the_plain_formula(name):
    images = random(2, *SHAPE)
    images64 = np.asarray(images, np.float64)
    assert_like_the_formula(
        make(**ATTENTIONS[name]),
        images,
        lambda params: reference.model(params, images64, 2, plain(name)),
    )


@pytest.mark.slow
def test_images_skip_branches_at_random():
    """Which ones is found out: one of the sixteen choices in two blocks explains each image."""
    count, rate = 300, 0.6
    model = make(stochastic_depth=rate, dropout_rate=0.0)
    images, keys = random(count, *SHAPE), jax.random.split(random_key(0), count)
    params, images64 = reference.to_float64(parameters(model)), np.asarray(images, np.float64)
    kept = 1 - np.array([[rate / 2], [rate]])
    choices = np.array(list(np.ndindex(2, 2, 2, 2))).reshape(16, 2, 2)
    answers = np.stack([
        reference.model(params, images64, 2, reference.external_attention, (x / kept)[..., None])
        for x in choices
    ])  # fmt: skip
    errors = np.abs(answers - np.asarray(call(model, images, keys))).max(2)
    assert (errors.min(0) < 1e-4).all() and (np.sort(errors, 0)[1] > 1e-3).all()
    chosen = choices[errors.argmin(0)]
    each, both = chosen.mean(0), chosen.prod(2).mean(0)  # of the two branches of a block
    for found, odds in ((each, kept), (both, kept[:, 0] ** 2)):
        assert (np.abs(found - odds) < 4 * np.sqrt(odds * (1 - odds) / count)).all()

    factors = (chosen / kept).transpose(1, 2, 0)
    assert_like_the_formula(
        model,
        images,
        lambda params: reference.model(params, images64, 2, reference.external_attention, factors),
        keys,
    )


def test_a_scale_of_branches_begins_with_the_value_that_is_given():
    model = split_model(lambda rngs: EANet(5, SHAPE, **SMALL, residual_scale=0.1, rngs=rngs))
    blocks = model.init(0)["blocks"]
    for name in ("attention_scale", "mlp_scale"):
        np.testing.assert_array_equal(blocks[name]["scale"], np.full((2, 6), 0.1, np.float32))


def test_stochastic_depth_is_of_training_alone():
    images = random(4, *SHAPE)
    np.testing.assert_array_equal(call(make(stochastic_depth=0.6), images), call(make(), images))


@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_convolutions_halve_the_sides_up_to_the_size_of_a_patch(patch_size):
    graphdef, state = nnx.split(
        Convolutions((16, 8, 3), patch_size=patch_size, embed_dim=8, rngs=nnx.Rngs(0))
    )
    state = jax.tree.map(lambda x: random(*x.shape, scale=0.5), state)
    images = random(2, 16, 8, 3)
    tokens = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images)
    params = reference.to_float64(nnx.to_pure_dict(state))
    expected = reference.convolutions(params, np.asarray(images, np.float64))
    expected += params["position_embedding"]
    np.testing.assert_allclose(tokens.transpose(1, 2, 0), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 1}, "does not end at model.patch_size=1"),
        ({"patch_size": 6}, "does not end at model.patch_size=6"),
        ({"patch_size": 8, "embed_dim": 6}, "model.embed_dim=6, which 4 does not divide"),
    ],
)
def test_convolutions_that_cannot_be(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make((24, 48, 3), stem="convolutions", **options)


def test_the_default_model_has_the_parameters_of_the_example():
    model = nnx.eval_shape(lambda: EANet(100, (32, 32, 3), rngs=nnx.Rngs(0)))
    assert count_parameters(model) == 361_380


@pytest.mark.parametrize("shape, count", [((4, 6, 3), 6), ((2, 2, 1), 1), ((8, 4, 4), 8)])
def test_any_shape_of_images(shape, count):
    model = make(shape, patch_size=2)
    images = random(3, *shape)
    features = jax.jit(lambda images: model.features(images))(images)
    assert features.shape == (3, count, 6)
    assert call(model, images).shape == (3, 5)


def test_tokens_are_patches_in_row_major_order():
    embed = Patches((4, 6, 2), patch_size=2, embed_dim=8, rngs=nnx.Rngs(0))
    embed.projection.kernel[...] = jnp.eye(8)
    embed.position_embedding[...] = jnp.zeros((6, 8))
    images = random(2, 4, 6, 2)
    expected = reference.patches(np.asarray(images), 2)
    np.testing.assert_allclose(embed(images).transpose(1, 2, 0), expected, atol=1e-6)
    np.testing.assert_allclose(embed(images)[:, 1, 4], images[1, 2:4, 2:4].reshape(8), atol=1e-6)


@pytest.mark.parametrize(
    "shape, name, size", [((32, 30, 3), "width", 30), ((30, 32, 3), "height", 30)]
)
def test_a_patch_size_that_does_not_divide_names_both_numbers(shape, name, size):
    with pytest.raises(UserError, match=rf"patch_size=4 does not divide .*{name} of {size} pixels"):
        make(shape, patch_size=4)


def test_images_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"\(4, 6, 3\), but got \(6, 4, 3\)"):
        make()(random(1, 6, 4, 3))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"depth": 0}, r"model\.depth=0 must be a whole number from 1 to 1,000"),
        ({"memory_size": -1}, r"model\.memory_size=-1 must be a whole number from 1"),
        ({"dropout_rate": 1.0}, r"model\.dropout_rate=1.0 must be a number from 0 to 0.999"),
        ({"attention": "both"}, r"model\.attention='both' must be one of external, self, none"),
        ({"norm": "triple"}, r"model\.norm='triple' must be one of double, "),
        ({"dtype": "float23"}, r"model\.dtype='float23' must be one of float32, "),
        ({"param_dtype": "int32"}, r"model\.param_dtype='int32' must be one of float32, "),
    ],
)
def test_impossible_options(options, message, unchecked_types):
    with pytest.raises(UserError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "name, axes, last", [("external", (2, 3, 6, 2), 3), ("self", (2, 3, 2, 6), 6)]
)
def test_attention_maps_are_the_normalised_attention_of_each_block(name, axes, last):
    """[B, H, N, S] of external attention, [B, H, N, N] of self-attention."""
    model = make(**ATTENTIONS[name])
    images = random(3, *SHAPE)
    maps = jax.jit(lambda images: model.attention_maps(images))(images)
    assert len(maps) == axes[0]
    for one in maps:
        assert one.shape == (3, 2, 6, last) and one.dtype == jnp.float32
        np.testing.assert_allclose(one.sum(3), 1, atol=1e-5)

    # The second block sees what the first one made of the tokens.
    params = reference.to_float64(parameters(model))
    embed = params["patch_embed"]
    x = reference.linear(embed["projection"], reference.patches(np.asarray(images), 2))
    x = x + embed["position_embedding"]
    for index, block in enumerate(reference.blocks(params)):
        normed = reference.layer_norm(block["attention_norm"], x)
        if name == "self":
            expected = reference.self_weights(block["attention"], normed, 2)
        else:
            expected = reference.external_weights(block["attention"], normed).swapaxes(1, 2)
        np.testing.assert_allclose(maps[index], expected, atol=1e-5)
        x = x + plain(name)(block["attention"], normed)
        hidden = reference.linear(
            block["mlp"]["hidden"], reference.layer_norm(block["mlp_norm"], x)
        )
        x = x + reference.linear(block["mlp"]["out"], reference.gelu(hidden))


def test_features_are_what_the_head_takes_the_mean_of():
    model = make(final_norm=True)
    images = random(4, *SHAPE)
    features = jax.jit(lambda images: model.features(images))(images)
    head = reference.to_float64(parameters(model))["head"]
    expected = reference.linear(head, np.asarray(features, np.float64).mean(1))
    np.testing.assert_allclose(call(model, images), expected, atol=1e-5)


def test_without_keys_nothing_is_random_and_with_keys_all_layers_are():
    model, images = make(), random(4, *SHAPE)
    exact = make(dropout_rate=0.0)
    np.testing.assert_array_equal(call(model, images), call(model, images))
    np.testing.assert_allclose(call(model, images), call(exact, images), atol=1e-5)
    keys = jax.random.split(random_key(0), 4)
    assert np.abs(call(model, images, keys) - call(model, images)).max() > 0.01
    np.testing.assert_array_equal(call(model, images, keys), call(model, images, keys))


@pytest.mark.parametrize(
    "options", [ATTENTIONS["external"], ATTENTIONS["self"], {"stochastic_depth": 0.5}]
)
def test_an_examples_logits_do_not_depend_on_its_batch_mates(options):
    model = make(**options)
    images, keys = random(4, *SHAPE), jax.random.split(random_key(0), 4)
    whole = call(model, images, keys)
    chosen = np.array([3, 1, 1, 0])
    np.testing.assert_allclose(call(model, images[chosen], keys[chosen]), whole[chosen], atol=1e-5)
    other = call(model, images[chosen], keys[np.array([1, 3, 0, 1])])
    assert np.abs(other - whole[chosen]).max() > 0.01


def test_one_key_stands_for_one_of_each_example():
    model, images = make(), random(4, *SHAPE)
    key = random_key(3)
    expected = call(model, images, jax.random.split(key, 4))
    np.testing.assert_array_equal(call(model, images, key), expected)


@pytest.mark.parametrize("name", ["external", "self"])
def test_bfloat16(name):
    options = {**ATTENTIONS[name], "dtype": "bfloat16", "final_norm": False}
    model, images = make(**options), random(4, *SHAPE)
    exact = make(**{**options, "dtype": "float32"})
    logits = call(model, images)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(parameters(model))} == {"float32"}
    expected = call(exact, images)
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())
    assert not np.array_equal(logits, expected)


def test_the_type_of_parameters():
    model = make(param_dtype="bfloat16", dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(parameters(model))} == {"bfloat16"}
    assert np.isfinite(call(model, random(2, *SHAPE))).all()


@pytest.fixture(scope="module")
def initial():
    """The parameters of a wide model as they are before training, by name."""
    model = split_model(
        lambda rngs: EANet(
            50,
            (16, 16, 3),
            patch_size=4,
            embed_dim=48,
            depth=1,
            num_heads=6,
            head_dim=12,
            memory_size=40,
            mlp_dim=64,
            rngs=rngs,
        )
    )
    leaves = jax.tree.leaves_with_path(jax.jit(model.init)(0))
    return {".".join(str(part.key) for part in path): np.asarray(leaf) for path, leaf in leaves}


def test_initial_kernels_are_glorot_uniform(initial):
    """As in Keras: uniform within ± sqrt(6 / (inputs + outputs)) of the matrix."""
    sizes = {
        "patch_embed.projection.kernel": (48, 48),
        "blocks.attention.query_kernel": (48, 72),
        "blocks.attention.key_memory": (12, 40),
        "blocks.attention.value_memory": (40, 12),
        "blocks.attention.out_kernel": (72, 48),
        "blocks.mlp.hidden.kernel": (48, 64),
        "blocks.mlp.out.kernel": (64, 48),
        "head.kernel": (48, 50),
    }
    for name, (inputs, outputs) in sizes.items():
        kernel, bound = initial[name], np.sqrt(6 / (inputs + outputs))
        assert kernel.size == inputs * outputs
        assert 0.95 * bound < np.abs(kernel).max() <= bound, name
        assert kernel.var() == pytest.approx(bound**2 / 3, rel=0.15), name
        assert abs(kernel.mean()) < 5 * bound / np.sqrt(3 * kernel.size), name
    assert not np.array_equal(
        initial["blocks.attention.key_memory"], initial["blocks.attention.value_memory"].T
    )


def test_other_initial_parameters(initial):
    position = initial["patch_embed.position_embedding"]
    assert position.shape == (16, 48)
    assert 0.049 < np.abs(position).max() <= 0.05
    assert position.var() == pytest.approx(0.05**2 / 3, rel=0.15)
    for name, value in initial.items():
        if name.endswith("bias"):
            assert not value.any(), name
        if name.endswith("scale"):
            assert (value == 1).all(), name


def test_the_compiler_is_not_one_that_mixes_up_many_rows():
    """jax-ml/jax#39103: jaxlib 0.10.2 gives the last row the sum of another."""
    x = jnp.arange(32_769.0)[:, None] * jnp.array([[1.0, 0.0, 0.0]])

    def squares(x):
        return jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x)

    summed = jax.jit(squares, compiler_options=AS_FOR_USERS)(x)
    np.testing.assert_array_equal(summed, np.arange(32_769.0, dtype=np.float32) ** 2)


def temporary_bytes(shape, images=1, **options):
    """Of the gradients of a model."""
    options = {**SMALL, "dropout_rate": 0.0, **options}
    model = split_model(lambda rngs: EANet(5, shape, rngs=rngs, **options))

    def loss(params, images):
        return jnp.sum(model.apply(params, images))

    params = jax.eval_shape(model.init, 0)
    images = jax.ShapeDtypeStruct((images, *shape), jnp.float32)
    program = jax.jit(jax.grad(loss)).lower(params, images).compile(AS_FOR_USERS)
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_of_training_self_attention_is_linear_in_the_tokens():
    small, large = (
        temporary_bytes((side, side, 3), patch_size=1, attention="self") for side in (32, 64)
    )
    # The weights of both blocks would be 268 MB at 4,096 tokens.
    assert large < min(6 * small, 30e6)


def test_memory_of_training_with_many_units_is_that_of_one_head():
    options = {"patch_size": 1, "num_heads": 16, "memory_size": 256, "depth": 4}
    # The weights of all heads and blocks would be 67 MB, those of a head are 1 MB.
    assert temporary_bytes((32, 32, 3), **options) < 12e6


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"embed_dim": 30, "memory_size": 7}, {"attention": "self"}]
)
def test_the_least_memory_of_training_is_a_part_of_what_it_takes(options):
    """With folded products, with a loop over heads, and of self-attention."""
    shape, images = (16, 16, 3), 20
    model = nnx.eval_shape(lambda: EANet(5, shape, rngs=nnx.Rngs(0), **{**SMALL, **options}))
    least = least_bytes(model, images) - least_bytes(model, 0)
    taken = temporary_bytes(shape, images, **options)
    assert taken / 20 < least < taken
    # By which a microbatch is chosen where a device has memory of its own.
    assert 0.7 < images * image_bytes(model, training=True) / taken < 1.7


@pytest.mark.slow
def test_compiled_and_eager_agree_at_full_size():
    """XLA:CPU of some versions computes wrong results where arrays are large.

    Logits, loss and gradients of two blocks of the default model at batch 128, dropout on:
    operation by operation, compiled, and as a training step computes them.
    """
    batch, classes = 128, 100
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, classes, batch).astype(np.int32)
    model = split_model(lambda rngs: EANet(classes, (32, 32, 3), depth=2, rngs=rngs))
    params = jax.jit(model.init)(0)
    prepare = make_prepare(
        num_classes=classes,
        normalize=normalizer(np.full(3, 120, np.float32), np.full(3, 60, np.float32)),
        augmentation={},
        random_bits="counter",
    )
    prepared = prepare(jnp.uint32(0), jnp.int32(0), jnp.asarray(images), jnp.asarray(labels))

    cross_entropy = make_loss(label_smoothing=0.1)

    def loss(params):
        inputs, targets, keys = prepared
        logits = model.apply(params, inputs, keys)
        return jnp.mean(cross_entropy(logits, targets)), logits

    function = jax.value_and_grad(loss, has_aux=True)
    with jax.disable_jit():
        (eager_loss, eager_logits), eager_gradient = function(params)
    (compiled_loss, compiled_logits), compiled_gradient = jax.jit(
        function, compiler_options=AS_FOR_USERS
    )(params)

    assert float(compiled_loss) == pytest.approx(float(eager_loss), rel=1e-5)
    assert_close(compiled_logits, eager_logits)
    jax.tree.map(assert_close, compiled_gradient, eager_gradient)

    mesh = devices.make_mesh(batch)
    optimizer = optax.sgd(1.0)
    train_steps = step.make_train_steps(
        model.apply,
        cross_entropy,
        optimizer,
        mesh,
        prepare,
        batch_size=batch,
        microbatch=4,  # as `Run` takes
    )
    before = jax.tree.map(np.asarray, params)
    state = devices.replicate(step.init_state(params, optimizer, ema=False), mesh)
    order = devices.replicate(np.arange(2 * batch, dtype=np.int32) % batch, mesh)
    data = devices.replicate((images, labels), mesh)
    lowered = train_steps.lower(state, *data, order, np.uint32(0), 0, 0, 1)
    program = lowered.compile(AS_FOR_USERS)
    temporary = program.memory_analysis().temp_size_in_bytes
    counted = program.cost_analysis() | {"temporary bytes": temporary}
    step_bounds.assert_within(counted, step_bounds.COMPILED)
    state, sums, _ = program(state, *data, order, np.uint32(0), 0, 0, 1)
    assert means(sums)["loss"] == pytest.approx(float(eager_loss), rel=1e-5)
    step_gradient = jax.tree.map(lambda old, new: old - np.asarray(new), before, state.params)
    # Differences of parameters near 1 are exact to 1e-7.
    jax.tree.map(partial(assert_close, rounding=3e-7), step_gradient, eager_gradient)


def assert_close(actual, expected, rounding=1e-7):
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * scale + rounding)
