import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx
from jax.sharding import AxisType

from eanet import devices, steps
from eanet.data_source import Split
from eanet.layers import dropout
from eanet.model import EANet
from eanet.optimizer import make_optimizer

CLASSES, BATCH, COUNT = 7, 8, 21
SHAPE = (4, 4, 3)
MEAN, STD = np.array([100, 120, 140], np.float32), np.array([50, 60, 70], np.float32)
AUGMENTATION = {"flip": True, "contrast": 0.2}


def make_data(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return Split(images, rng.integers(0, CLASSES, count).astype(np.int32))


def mesh_of(count):
    return jax.make_mesh(
        (count,), (devices.BATCH_AXIS,), (AxisType.Auto,), devices=jax.local_devices()[:count]
    )


def copied(tree):
    return jax.tree.map(np.array, jax.device_get(tree))


def normalized(images):
    return (images.astype(np.float64) - MEAN) / STD


class Linear:
    """The smallest model there is, compiled in no time: logits = flat image · w + b."""

    def __init__(self, dropout_rate=0.0):
        self.dropout_rate = dropout_rate
        size = int(np.prod(SHAPE))
        rng = np.random.default_rng(5)
        self.kernels = {"w": True, "b": False}
        self.init = lambda: {
            "w": jnp.asarray(rng.normal(size=(size, CLASSES), scale=0.1), jnp.float32),
            "b": jnp.zeros(CLASSES),
        }

    def apply(self, params, images, keys=None):
        flat = dropout(images.reshape(len(images), -1), self.dropout_rate, keys)
        return flat @ params["w"] + params["b"][None, :]


@pytest.fixture(scope="module")
def eanet():
    """A tiny EANet whose initial parameters need no compiled initialisers."""
    model = steps.split_model(
        lambda: EANet(
            CLASSES,
            SHAPE,
            patch_size=2,
            depth=1,
            embed_dim=8,
            num_heads=2,
            head_dim=4,
            memory_size=4,
            mlp_dim=8,
            rngs=nnx.Rngs(0),
        )
    )

    def init():
        rng = np.random.default_rng(0)
        draw = lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)  # noqa: E731
        return jax.tree.map(draw, nnx.to_pure_dict(nnx.state(model.abstract)))

    return dataclasses.replace(model, init=init)


class Training:
    """A model in training, and what it is trained on."""

    def __init__(self, model, optimizer=None, *, num_devices=2, ema_decay=0.0, **options):
        self.model, self.mesh = model, mesh_of(num_devices)
        # Not Adam, which makes much of the rounding errors in gradients that should be zero.
        self.optimizer = optimizer or make_optimizer(
            "sgd", lambda step: 0.1, matrices=model.kernels, weight_decay=0.1
        )
        self.ema = ema_decay > 0
        options = {
            "microbatch_size": 0,
            "augmentation": {},
            "label_smoothing": 0.1,
            "random_bits": "counter",
            **options,
        }
        self.run = steps.make_train_steps(
            model.apply,
            self.optimizer,
            self.mesh,
            num_classes=CLASSES,
            batch_size=BATCH,
            normalize=steps.normalizer(MEAN, STD),
            ema_decay=ema_decay,
            seed=0,
            **options,
        )
        data = make_data()
        self.data = devices.replicate((data.images, data.labels), self.mesh)
        self.order = devices.replicate(steps.epoch_order(0, 0, COUNT, BATCH), self.mesh)

    def state(self):
        init = jax.jit(
            partial(steps.init_state, optimizer=self.optimizer, ema=self.ema),
            out_shardings=devices.replicated(self.mesh),
        )
        return init(self.model.init())

    def train(self, counts, state=None):
        """Runs dispatches of so many steps, within the first epoch."""
        state, done, sums = state or self.state(), 0, None
        for count in counts:
            state, sums = self.run(state, *self.data, self.order, done * BATCH, count)
            done += count
        return state, sums


@pytest.fixture(scope="module")
def on_two_devices(eanet):
    return Training(eanet, ema_decay=0.9, augmentation=AUGMENTATION)


@pytest.fixture(scope="module")
def three_steps(on_two_devices):
    return copied(on_two_devices.train([3])[0])


@pytest.fixture(scope="module")
def linear():
    return Training(Linear(), ema_decay=0.15)


# Losses and hits


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    rng = np.random.default_rng(0)
    logits = 5 * rng.normal(size=(6, CLASSES))
    targets = rng.dirichlet(np.ones(CLASSES), 6)  # as mixup makes them
    targets[0] = np.eye(CLASSES)[2]
    losses = steps.cross_entropy(
        jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32), smoothing
    )
    np.testing.assert_allclose(losses, reference.cross_entropy(logits, targets, smoothing), 1e-5)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    losses = steps.cross_entropy(logits, jnp.array([[0.0, 1.0, 0.0]]), 0.0)
    np.testing.assert_allclose(losses, [2e4])


def test_hits_are_the_labels_among_the_largest_logits():
    rng = np.random.default_rng(1)
    logits = rng.integers(0, 4, (200, 6)).astype(np.float32)  # full of ties
    labels = rng.integers(0, 6, 200).astype(np.int32)
    for k in (1, 2, 5, 6, 9):
        largest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        expected = (largest == labels[:, None]).any(1)
        actual = steps.hits(jnp.asarray(logits), jnp.asarray(labels), k)
        np.testing.assert_array_equal(actual, expected.astype(np.float32))


def test_a_label_whose_logit_is_no_number_is_no_hit():
    logits = jnp.array([[jnp.nan, 0.0, 1.0], [jnp.nan] * 3, [0.0, 1.0, 2.0]])
    np.testing.assert_array_equal(steps.hits(logits, jnp.array([0, 0, 2]), 3), [0, 0, 1])


def test_means_divide_sums_by_examples_and_steps():
    sums = {"loss": 6.0, "accuracy": 3.0, "grad_norm": 8.0, "examples": 12.0, "steps": 4.0}
    assert steps.means(sums) == {"loss": 0.5, "accuracy": 0.25, "grad_norm": 2.0}
    assert set(steps.means(steps.zero_sums()).values()) == {0.0}


def test_normalizer():
    images = make_data().images
    result = steps.normalizer(MEAN, STD)(jnp.asarray(images))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, normalized(images), atol=1e-5)


# The order of examples


def test_every_example_comes_once_an_epoch_and_none_is_lost_between_epochs():
    orders = [np.asarray(steps.epoch_order(3, epoch, COUNT, BATCH)) for epoch in range(4)]
    for order, following in itertools.pairwise(orders):
        assert order.shape == (COUNT + BATCH,)
        np.testing.assert_array_equal(np.sort(order[:COUNT]), np.arange(COUNT))
        np.testing.assert_array_equal(order[COUNT:], following[:BATCH])


def test_the_order_is_a_function_of_seed_and_epoch():
    def first(seed, epoch):
        return tuple(np.asarray(steps.epoch_order(seed, epoch, COUNT, BATCH))[:COUNT])

    assert first(0, 0) == first(0, 0)
    assert len({first(seed, epoch) for seed in (0, 1, 2**31 + 1) for epoch in (0, 1, 2)}) == 9


# Training steps


def assert_same_bytes(left, right):
    left, right = copied(left), copied(right)
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, one), other in zip(
        jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True
    ):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), path


def assert_close(left, right, tolerance=2e-5):
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
        copied(left),
        copied(right),
    )


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
        def apply(self, params, images, keys=None):
            note = lambda data: seen.extend(map(tuple, np.asarray(data).tolist()))  # noqa: E731
            jax.debug.callback(note, jax.random.key_data(keys))
            return super().apply(params, images, keys)

    Training(Watched()).train([3])
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 3 * BATCH


def test_two_devices_give_what_one_gives_and_passes_what_a_whole_batch_gives(eanet, three_steps):
    """Four images on each of two devices against four passes of two, all that is random on."""
    one = Training(
        eanet, num_devices=1, microbatch_size=2, ema_decay=0.9, augmentation=AUGMENTATION
    )
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
        state, sums = linear.run(state, *linear.data, linear.order, i * BATCH, 1)
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
        state, _ = linear.run(state, *linear.data, linear.order, 0, 1)
        decay = min(0.15, (1 + step) / (10 + step))
        new = copied(state.params)
        average = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, average, new)
        assert_close(state.ema, average, 1e-6)
    assert state.eval_params is state.ema
    without = dataclasses.replace(state, ema=None)
    assert without.eval_params is state.params


def plain_gradient(params, images, labels, smoothing):
    """Of the mean loss of the linear model, in NumPy; and its loss and logits."""
    flat = normalized(images).reshape(len(images), -1)
    logits = flat @ params["w"] + params["b"]
    targets = np.eye(CLASSES)[labels]
    smoothed = (1 - smoothing) * targets + smoothing / CLASSES
    slope = (reference.softmax(logits, 1) - smoothed) / len(images)
    loss = reference.cross_entropy(logits, targets, smoothing).mean()
    return {"w": flat.T @ slope, "b": slope.sum(0)}, loss, logits


@pytest.mark.parametrize("decay, clip_norm", [("all", 0.0), ("matrices", 0.01)])
def test_a_step_is_that_of_optax_on_the_gradient_of_the_formula(decay, clip_norm):
    model = Linear()
    rate, weight_decay = 0.05, 0.3
    optimizer = make_optimizer(
        "adamw",
        lambda step: rate,
        matrices=model.kernels,
        weight_decay=weight_decay,
        decay=decay,
        clip_norm=clip_norm,
    )
    training = Training(model, optimizer)
    state, sums = training.train([2])

    mask = model.kernels if decay == "matrices" else None
    plain = optax.adamw(rate, weight_decay=weight_decay, mask=mask)
    if clip_norm:
        plain = optax.chain(optax.clip_by_global_norm(clip_norm), plain)
    data, order = make_data(), np.asarray(training.order)
    params = copied(Linear().init())
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
    means = steps.means(sums)
    assert means["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert means["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert means["accuracy"] == right / (2 * BATCH)


def test_mixed_targets_and_smoothing_enter_the_loss(monkeypatch):
    """What `augment` makes of images and targets is what the loss is of."""

    def halves(key, images, targets, **switches):
        assert switches == {"mixup": 0.5}
        return images, 0.75 * targets + 0.25 * jnp.roll(targets, 1, axis=1)

    monkeypatch.setattr(steps, "augment", halves)
    training = Training(Linear(), augmentation={"mixup": 0.5}, label_smoothing=0.2)
    params = reference.to_float64(copied(Linear().init()))
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
    first = steps.means(sums)
    for _ in range(6):
        state = dataclasses.replace(
            state, sums=devices.replicate(steps.zero_sums(), on_two_devices.mesh)
        )
        state, sums = on_two_devices.train([40], state)
    last = steps.means(sums)
    assert last["loss"] < 0.6 * first["loss"]
    assert last["accuracy"] > 0.7 > 0.5 > first["accuracy"]


# Evaluation


@pytest.fixture(scope="module")
def evaluation():
    """Of the linear model, in blocks of 16."""
    patch = pytest.MonkeyPatch()
    patch.setattr(steps, "_EVALUATION_BLOCK", 16)
    evaluate = steps.make_evaluate(
        Linear().apply,
        devices.make_mesh(16),
        normalize=steps.normalizer(MEAN, STD),
        label_smoothing=0.1,
    )
    patch.undo()
    return evaluate, copied(Linear().init())


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 31, 32, 33])
def test_evaluation_counts_every_image_exactly_once(evaluation, count):
    evaluate, params = evaluation
    data = make_data(count, seed=count)
    metrics = evaluate(params, data)
    _, loss, logits = plain_gradient(reference.to_float64(params), data.images, data.labels, 0.1)
    ranks = (-logits).argsort(1)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    for name, k in (("accuracy", 1), ("top5_accuracy", 5)):
        expected = (ranks[:, :k] == data.labels[:, None]).any(1).mean()
        assert metrics[name] == pytest.approx(expected, abs=1e-6)


def test_training_and_evaluation_see_the_same_range_of_inputs(evaluation):
    """With an augmentation that changes nothing both have one loss; a clip in one would show."""
    evaluate, params = evaluation
    training = Training(Linear(), optax.sgd(0.0), augmentation={"contrast": 1e-9})
    data, index = make_data(), np.asarray(training.order)[:BATCH]
    _, sums = training.train([1])
    metrics = evaluate(params, Split(data.images[index], data.labels[index]))
    assert metrics["loss"] == pytest.approx(steps.means(sums)["loss"], rel=1e-5)


# Devices


@pytest.mark.parametrize("batch_size, count", [(8, 2), (7, 1), (2, 2), (1, 1)])
def test_the_mesh_has_as_many_devices_as_divide_the_batch(batch_size, count):
    assert devices.make_mesh(batch_size).size == count


@pytest.mark.parametrize(
    "num_devices, batch_size, microbatch_size, expected",
    [
        (2, 128, 0, 8),
        (1, 128, 0, 8),
        (2, 12, 0, 6),
        (2, 22, 0, 1),
        (2, 128, 64, 32),
        (1, 12, 5, 4),
        (2, 8, 1000, 4),
        (2, 8, 1, 1),
    ],
)
def test_images_per_pass_divide_the_share_of_a_device(
    num_devices, batch_size, microbatch_size, expected
):
    assert devices.images_per_pass(mesh_of(num_devices), batch_size, microbatch_size) == expected
