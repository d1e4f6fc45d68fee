import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from eanet import devices
from eanet.models.eanet import EANet
from eanet.models.functional import split_model
from eanet.training import batches
from eanet.training.metrics import means, zero_sums
from eanet.training.optimizer import OptimizerOptions, make_optimizer
from tests.helpers import reference
from tests.helpers.training_cases import (
    BATCH,
    CLASSES,
    MEAN,
    SHAPE,
    STD,
    Linear,
    Training,
    assert_close,
    assert_same_bytes,
    copied,
    make_data,
    normalized,
    plain_gradient,
)

AUGMENTATION = {"flip": True, "contrast": 0.2}


@pytest.fixture(scope="module")
def eanet():
    """A tiny EANet whose initial parameters need no compiled initialisers."""
    model = split_model(
        lambda rngs: EANet(
            CLASSES,
            SHAPE,
            patch_size=2,
            depth=1,
            embed_dim=8,
            num_heads=2,
            head_dim=4,
            memory_size=4,
            mlp_dim=8,
            rngs=rngs,
        )
    )

    def init(seed):
        rng = np.random.default_rng(0)
        draw = lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)  # noqa: E731
        return jax.tree.map(draw, nnx.to_pure_dict(nnx.state(model.abstract)))

    return dataclasses.replace(model, init=init)


@pytest.fixture(scope="module")
def on_two_devices(eanet):
    return Training(eanet, ema_decay=0.9, augmentation=AUGMENTATION)


@pytest.fixture(scope="module")
def three_steps(on_two_devices):
    return copied(on_two_devices.train([3])[0])


@pytest.fixture(scope="module")
def linear():
    return Training(Linear(), ema_decay=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("counts", [[1, 1, 1], [2, 1]])
def test_how_steps_are_divided_into_dispatches_changes_no_byte(on_two_devices, three_steps, counts):
    state, sums = on_two_devices.train(counts)
    assert_same_bytes(state, three_steps)
    assert_same_bytes(sums, three_steps.sums)
    assert int(three_steps.step) == 3


def test_a_step_depends_on_its_number(on_two_devices):
    """Dropout and augmentation of step 5 are not those of step 0 on the same examples."""
    state = on_two_devices.state()
    later = dataclasses.replace(state, step=jnp.int32(5))
    later = jax.tree.map(jnp.copy, devices.replicate(later, on_two_devices.mesh))
    first, _ = on_two_devices.train([1], state)
    second, _ = on_two_devices.train([1], later)
    assert abs(float(first.sums["loss"]) - float(second.sums["loss"])) > 1e-3


def test_every_example_of_every_step_has_a_key_of_its_own():
    seen = []

    class Watched(Linear):
        def apply(self, params, images, rngs=None):
            note = lambda data: seen.extend(map(tuple, np.asarray(data).tolist()))  # noqa: E731
            jax.debug.callback(note, jax.random.key_data(rngs))
            return super().apply(params, images, rngs)

    Training(Watched()).train([3])
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 3 * BATCH


@pytest.mark.slow
def test_two_devices_give_what_one_gives_and_passes_what_a_whole_batch_gives(eanet, three_steps):
    """Four images on each of two devices against four passes of two, all that is random on."""
    one = Training(eanet, num_devices=1, microbatch=2, ema_decay=0.9, augmentation=AUGMENTATION)
    state, _ = one.train([3])
    assert_close(state.params, three_steps.params)
    assert_close(state.ema, three_steps.ema)
    assert_close(state.sums, three_steps.sums)


def test_the_state_is_donated(on_two_devices):
    state = on_two_devices.state()
    on_two_devices.train([1], state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_sums_add_up_over_steps(linear):
    state, parts = linear.state(), []
    for i in range(3):
        before = copied(state.sums)
        state, sums, _ = linear.dispatch(state, i * BATCH, 1)
        parts.append({name: float(sums[name]) - before[name] for name in sums})
    total = copied(state.sums)
    assert total["examples"] == 3 * BATCH and total["steps"] == 3
    for name, value in total.items():
        assert value == pytest.approx(sum(part[name] for part in parts), rel=1e-5)
    assert min(part["loss"] for part in parts) > 0 and total["grad_norm"] > 0


def test_the_moving_average_is_its_formula(linear):
    state = linear.state()
    average = copied(state.params)
    assert_same_bytes(state.ema, average)
    for step in range(4):
        state, _, _ = linear.dispatch(state, 0, 1)
        decay = min(0.15, (1 + step) / (10 + step))
        new = copied(state.params)
        average = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, average, new)
        assert_close(state.ema, average, 1e-6)
    assert state.eval_params is state.ema
    without = dataclasses.replace(state, ema=None)
    assert without.eval_params is state.params


@pytest.mark.parametrize("decay, clip_norm", [("all", 0.0), ("matrices", 0.01)])
def test_a_step_is_that_of_optax_on_the_gradient_of_the_formula(decay, clip_norm):
    model = Linear()
    rate, weight_decay = 0.05, 0.3
    optimizer = make_optimizer(
        OptimizerOptions(weight_decay=weight_decay, decay=decay, clip_norm=clip_norm),
        lambda step: rate,
        model.kernels,
    )
    training = Training(model, optimizer)
    state, sums = training.train([2])

    mask = jax.tree.map(bool, model.kernels) if decay == "matrices" else None
    plain = optax.adamw(rate, weight_decay=weight_decay, mask=mask)
    if clip_norm:
        plain = optax.chain(optax.clip_by_global_norm(clip_norm), plain)
    data, order = make_data(), np.asarray(training.order)
    params = copied(Linear().init(0))
    plain_state, losses, norms, right = plain.init(params), [], [], 0
    for i in range(2):
        index = order[i * BATCH :][:BATCH]
        gradient, loss, logits = plain_gradient(
            reference.to_float64(params), data.images[index], data.labels[index], 0.1
        )
        gradient = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradient)
        updates, plain_state = plain.update(gradient, plain_state, params)
        params = copied(optax.apply_updates(params, updates))
        losses.append(loss)
        norms.append(float(optax.tree.norm(gradient)))
        right += (logits.argmax(1) == data.labels[index]).sum()
    assert_close(state.params, params, 1e-5)
    averages = means(sums)
    assert averages["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert averages["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert averages["accuracy"] == right / (2 * BATCH)


def test_mixed_targets_and_smoothing_enter_the_loss(monkeypatch):
    """What `augment` makes of images and targets is what the loss is of."""

    def halves(key, images, targets, **switches):
        assert switches == {"mild": None, "mixup": 0.5}
        return images, 0.75 * targets + 0.25 * jnp.roll(targets, 1, axis=1)

    monkeypatch.setattr(batches, "augment", halves)
    training = Training(Linear(), augmentation={"mixup": 0.5}, label_smoothing=0.2)
    params = reference.to_float64(copied(Linear().init(0)))
    _, sums = training.train([1])
    index, data = np.asarray(training.order)[:BATCH], make_data()
    targets = np.eye(CLASSES)[data.labels[index]]
    targets = 0.75 * targets + 0.25 * np.roll(targets, 1, axis=1)
    flat = normalized(data.images[index]).reshape(BATCH, -1)
    logits = flat @ params["w"] + params["b"]
    expected = reference.cross_entropy(logits, targets, 0.2).sum()
    assert float(sums["loss"]) == pytest.approx(expected, rel=1e-5)
    # The larger share of a mixed target counts as its label.
    assert float(sums["accuracy"]) == (logits.argmax(1) == data.labels[index]).sum()


def test_some_steps_learn_a_few_images(on_two_devices):
    """Eight images, until their labels are known; dropout and smoothing keep the loss from 0."""
    state, sums = on_two_devices.train([1])
    first = means(sums)
    for _ in range(6):
        state = dataclasses.replace(state, sums=devices.replicate(zero_sums(), on_two_devices.mesh))
        state, sums = on_two_devices.train([40], state)
    last = means(sums)
    assert last["loss"] < 0.6 * first["loss"]
    assert last["accuracy"] > 0.7 > 0.5 > first["accuracy"]


# Loss or gradient that is not finite


class Exploding(Linear):
    """Has a logit that is not finite for images whose first pixel is 255."""

    def apply(self, params, images, rngs=None):
        white = images[:, 0, 0, :1] > (254.5 - MEAN[0]) / STD[0]
        return super().apply(params, images, rngs) + jnp.where(white, jnp.inf, 0.0)


@pytest.fixture(scope="module")
def exploding():
    """Two trainings, one that stops and one that may skip once; steps 1 and 3 explode."""
    data = make_data(5 * BATCH)
    data.images[:, 0, 0, 0] %= 255
    data.images[[BATCH, 3 * BATCH], 0, 0, 0] = 255
    pair = [Training(Exploding(), ema_decay=0.5, nonfinite_limit=limit) for limit in (0, 1)]
    for training in pair:
        training.data = devices.replicate((data.images, data.labels), training.mesh)
        training.order = devices.replicate(np.arange(5 * BATCH, dtype=np.int32), training.mesh)
    return pair


def test_a_step_that_is_not_finite_is_not_taken(exploding):
    stops, _ = exploding
    state, sums, reached = stops.dispatch(stops.state(), 0, 4)
    before, _ = stops.train([1])
    assert int(reached) == 1 and int(state.skipped) == 0
    assert_same_bytes(state, before)
    assert_same_bytes(sums, before.sums)
    # Nor is any after it, in dispatches that were on their way.
    later = stops.run(state, *stops.data, stops.order, np.uint32(0), 4, 4 * BATCH, 1)
    assert int(later[2]) == 1
    assert_same_bytes(later[0], before)


def test_a_skipped_step_changes_the_counters_only_and_has_a_limit(exploding):
    _, skips = exploding
    first, _ = skips.train([1])
    first = copied(first)
    state, _, reached = skips.dispatch(skips.state(), 0, 2)
    assert int(reached) == 2 and int(state.skipped) == 1
    assert_same_bytes(dataclasses.replace(state, step=first.step, skipped=first.skipped), first)
    state, sums, reached = skips.dispatch(state, 2 * BATCH, 3)
    assert int(reached) == 3 and int(state.skipped) == 1  # step 3 is one too many
    assert np.isfinite(means(sums)["loss"])
    assert float(sums["steps"]) == 2  # of 0 and 2


def test_several_seeds_in_one_program_are_the_same_runs():
    """As `benchmarks.ensemble` runs them, but for the model."""
    training = Training(Linear(dropout_rate=0.5), augmentation=AUGMENTATION)
    alone = [training.train([2], seed=seed)[0] for seed in (3, 4)]
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), training.state())
    orders = jnp.stack([training.order, training.order])
    together = jax.vmap(training.run, (0, None, None, 0, 0, None, None, None))
    ended, _, reached = together(both, *training.data, orders, np.array([3, 4], np.uint32), 0, 0, 2)
    assert (np.asarray(reached) == 2).all()
    for index, state in enumerate(alone):
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], ended), state)
    assert not np.allclose(ended.params["w"][0], ended.params["w"][1], atol=1e-3)
