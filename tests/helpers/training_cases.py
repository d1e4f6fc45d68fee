"""Small models in training, what they are trained on, and comparisons of states."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from eanet import devices
from eanet.data.base import Split
from eanet.models.dropout import dropout
from eanet.training import step as step_lib
from eanet.training.batches import epoch_order, make_prepare, normalizer
from eanet.training.loss import make_loss
from eanet.training.optimizer import OptimizerOptions, make_optimizer
from tests.helpers import reference

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
        self.kernels = {"w": "io", "b": ""}
        weights = rng.normal(size=(size, CLASSES), scale=0.1)
        self.init = lambda seed: {
            "w": jnp.asarray(weights, jnp.float32),
            "b": jnp.zeros(CLASSES),
        }

    def apply(self, params, images, rngs=None):
        flat = images.reshape(len(images), -1)
        flat = dropout(flat, self.dropout_rate, rngs, batch_axis=0)
        return flat @ params["w"] + params["b"][None, :]


class Training:
    """A model in training, and what it is trained on."""

    def __init__(
        self,
        model,
        optimizer=None,
        *,
        num_devices=2,
        ema_decay=0.0,
        augmentation=None,
        label_smoothing=0.1,
        **options,
    ):
        self.model, self.mesh = model, mesh_of(num_devices)
        # Not Adam, which makes much of the rounding errors in gradients that should be zero.
        self.optimizer = optimizer or make_optimizer(
            OptimizerOptions("sgd", weight_decay=0.1), lambda step: 0.1, model.kernels
        )
        self.ema = ema_decay > 0
        self.prepare = make_prepare(
            num_classes=CLASSES,
            normalize=normalizer(MEAN, STD),
            augmentation=augmentation or {},
            random_bits="counter",
        )
        self.run = step_lib.make_train_steps(
            model.apply,
            make_loss(label_smoothing=label_smoothing),
            self.optimizer,
            self.mesh,
            self.prepare,
            batch_size=BATCH,
            ema_decay=ema_decay,
            **{"microbatch": BATCH // num_devices, **options},
        )
        data = make_data()
        self.data = devices.replicate((data.images, data.labels), self.mesh)
        self.order = devices.replicate(epoch_order(0, 0, COUNT, BATCH), self.mesh)

    def state(self):
        init = jax.jit(
            partial(step_lib.init_state, optimizer=self.optimizer, ema=self.ema),
            out_shardings=devices.replicated(self.mesh),
        )
        return init(self.model.init(0))

    def dispatch(self, state, start, count, seed=0):
        """Takes steps from the position `start` in the order on."""
        first = int(state.step)
        return self.run(state, *self.data, self.order, np.uint32(seed), first, start, count)

    def train(self, counts, state=None, seed=0):
        """Runs dispatches of so many steps, within the first epoch."""
        state, done, sums = state or self.state(), 0, None
        for count in counts:
            state, sums, _ = self.dispatch(state, done * BATCH, count, seed)
            done += count
        return state, sums


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


def plain_gradient(params, images, labels, smoothing):
    """Of the mean loss of the linear model, in NumPy; and its loss and logits."""
    flat = normalized(images).reshape(len(images), -1)
    logits = flat @ params["w"] + params["b"]
    targets = np.eye(CLASSES)[labels]
    smoothed = (1 - smoothing) * targets + smoothing / CLASSES
    slope = (reference.softmax(logits, 1) - smoothed) / len(images)
    loss = reference.cross_entropy(logits, targets, smoothing).mean()
    return {"w": flat.T @ slope, "b": slope.sum(0)}, loss, logits
