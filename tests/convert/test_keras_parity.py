"""The model is Keras' model: logits, gradients and twenty steps of training."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eanet.convert.keras_weights import KerasWeights, to_params
from eanet.data.base import Wanted
from eanet.data.sources import decode
from eanet.errors import UserError
from eanet.training.loss import make_loss
from eanet.training.optimizer import OptimizerOptions, make_optimizer
from tests.helpers.compiler import AS_FOR_USERS
from tests.helpers.keras_cases import EXAMPLE, EXTERNAL, SELF, SMALL, build, imported, keras

QUICK = {"external: not square", "self: key_dim d/heads"}
NAMED = {f"external: {name}": options for name, options in EXTERNAL.items()}
NAMED |= {f"self: {name}": options for name, options in SELF.items()}
CASES = [
    pytest.param(options, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for name, options in NAMED.items()
]


@pytest.fixture(autouse=True)
def keras_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def random_images(options, count=3, seed=0):
    shape = (count, *options["image_shape"])
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def call(model, variables, images):
    logits, _ = model.stateless_call(
        variables, [v.value for v in model.non_trainable_variables], images
    )
    return logits


def values(model):
    return [variable.value for variable in model.trainable_variables]


def relative(actual, expected):
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


def differences(options, tmp_path, images, compiler_options=None):
    """Of the logits and of the gradient of each parameter, relative to the largest in Keras."""
    model = build(options)
    ours, params, architecture = imported(model, tmp_path / "m.weights.h5", options)
    weights = np.random.default_rng(1).normal(size=(len(images), options["num_classes"]))

    def logits_and_gradients(apply, variables):
        def scalar(variables):
            logits = apply(variables, images)
            return jnp.sum(logits * weights), logits

        function = jax.grad(scalar, has_aux=True)
        return jax.jit(function, compiler_options=compiler_options)(variables)

    expected, expected_logits = logits_and_gradients(partial(call, model), values(model))
    gradient, logits = logits_and_gradients(ours.apply, params)
    tensors = {
        variable.path: np.asarray(value)
        for variable, value in zip(model.trainable_variables, expected, strict=True)
    }
    expected = to_params(KerasWeights("gradients", tensors), architecture)
    largest = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(expected))
    external = architecture.attention == "external"

    def difference(path, actual, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # A softmax cancels what these add, so that what Keras returns is rounding.
        cancelled = ("query_bias", "key_memory_bias", "attention_norm/bias")[: 3 * external]
        zero = name.endswith((*cancelled, "key/bias"))
        scale = largest if zero else float(np.max(np.abs(leaf)))
        return name, float(np.max(np.abs(actual - leaf))) / scale

    of_gradients = jax.tree.leaves(
        jax.tree_util.tree_map_with_path(difference, gradient, expected),
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    return relative(logits, expected_logits), dict(of_gradients)


def check(options, tmp_path, images, compiler_options=None):
    of_logits, of_gradients = differences(options, tmp_path, images, compiler_options)
    worst = max(of_gradients, key=of_gradients.get)
    print(f"logits {of_logits:.1e}, gradients {of_gradients[worst]:.1e} ({worst})")
    assert of_logits < 1e-5
    assert of_gradients[worst] < 1e-4


@pytest.mark.parametrize("options", CASES)
def test_logits_and_gradients(options, tmp_path):
    check(options, tmp_path, random_images(options))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["external", "self"])
def test_real_images(attention, tmp_path):
    name = "cifar100" if "TFDS_DATA_DIR" in os.environ else "digits"
    try:
        decoded = decode(name, None, None, None, print, Wanted("test"))
    except UserError as error:
        pytest.skip(str(error))
    images = decoded.splits["test"].images[:4]
    options = EXAMPLE | {"depth": 1, "attention": attention, "image_shape": images.shape[1:]}
    options["num_classes"] = len(decoded.class_names)
    images = jnp.asarray((images - images.mean()) / images.std(), jnp.float32)
    check(options, tmp_path, images, AS_FOR_USERS)


LEARNING_RATE, DECAY, STEPS = 1e-3, 1e-2, 20


def keras_losses(model, images, targets, style):
    """The loss before each step; Keras 3 decays by `rate·decay·w`, tfa by `decay·w`."""
    decay = {"weight_decay": DECAY} if style == "keras3" else {}
    kind = keras.optimizers.AdamW if style == "keras3" else keras.optimizers.Adam
    optimizer = kind(LEARNING_RATE, **decay)
    optimizer.build(model.trainable_variables)
    criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)

    @jax.jit
    def step(variables, state):
        loss, gradients = jax.value_and_grad(lambda v: criterion(targets, call(model, v, images)))(
            variables
        )
        if style == "tfa":
            variables = [value - DECAY * value for value in variables]
        return loss, *optimizer.stateless_apply(state, gradients, variables)

    variables, state, losses = values(model), [v.value for v in optimizer.variables], []
    for _ in range(STEPS):
        loss, variables, state = step(variables, state)
        losses.append(float(loss))
    return np.array(losses)


def our_losses(ours, params, images, targets, style):
    optimizer = make_optimizer(
        OptimizerOptions(
            weight_decay=DECAY if style == "keras3" else DECAY / LEARNING_RATE,
            decay="all",
            epsilon=1e-7,
        ),
        optax.constant_schedule(LEARNING_RATE),
        ours.kernels,
    )

    cross_entropy = make_loss(label_smoothing=0.1)

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(
            lambda p: jnp.mean(cross_entropy(ours.apply(p, images), targets))
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        return loss, optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    state, losses = optimizer.init(params), []
    for _ in range(STEPS):
        loss, params, state = step(params, state)
        losses.append(float(loss))
    return np.array(losses)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["tfa", "keras3"])
@pytest.mark.parametrize("attention", ["external", "self"])
def test_twenty_steps_follow_the_same_curve(attention, style, tmp_path):
    options = SMALL | {"attention": attention, "image_shape": (16, 16, 3), "embed_dim": 24}
    model = build(options, vectors=False)
    ours, params, _ = imported(model, tmp_path / "m.weights.h5", options)
    images = random_images(options, 32)
    targets = jax.nn.one_hot(np.random.default_rng(2).integers(0, 10, 32), 10)
    expected = keras_losses(model, images, targets, style)
    actual = our_losses(ours, params, images, targets, style)
    difference = np.max(np.abs(actual - expected) / expected)
    print(f"loss {expected[0]:.4f} to {expected[-1]:.4f}, relative difference {difference:.1e}")
    assert expected[-1] < 0.9 * expected[0]
    assert difference < 1e-3
