"""An augmentation, a source of data, an optimizer and a schedule that the package does not know."""

import jax
import numpy as np
import optax
import pytest

import train
from eanet.augment.pipeline import AUGMENTATIONS, Augmentation
from eanet.data.base import Decoded, Source, Split
from eanet.data.sources import SOURCES
from eanet.errors import UserError
from eanet.rules import Number
from eanet.training import config_schema
from eanet.training.optimizer import OPTIMIZERS, SCHEDULES
from tests.helpers import main_job, plain


def brighten(key, images, most):
    return images + most * jax.random.uniform(key, (len(images), 1, 1, 1))


def stripes(argument, wanted):
    def read():
        rng = np.random.default_rng(0)
        labels = np.arange(96, dtype=np.int32) % 2
        images = rng.integers(0, 100, (96, 8, 8, 1), dtype=np.uint8)
        images[labels == 0, ::2] += 100
        images[labels == 1, :, ::2] += 100
        split = Split(images, labels)
        return Decoded({"train": split, "test": split}, ("across", "down"))

    return Source("stripes", f"stripes {argument}", "first", read)


def rmsprop(options, learning_rate, kernels):
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay, options.decay_mask(kernels)),
        optax.rmsprop(learning_rate, options.b2, options.epsilon),
    )


def linear(peak, total_steps, warmup_steps):
    return optax.linear_schedule(peak, 0.0, total_steps)


TABLES = [
    (AUGMENTATIONS, "brighten", Augmentation(Number(0, 9), brighten)),
    (SOURCES, "stripes:", stripes),
    (OPTIMIZERS, "rmsprop", rmsprop),
    (SCHEDULES, "linear", linear),
]


@pytest.fixture
def config(monkeypatch, tmp_path):
    """A config that names them all, each by one entry in its table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for table, name, entry in TABLES:
        monkeypatch.setitem(table, name, entry)
    config = plain.get_config()
    config.batch_size = 16
    config.model.depth = 1
    config.augment.brighten = 0.5
    config.dataset.name = "stripes:8"
    config.optimizer.update(name="rmsprop", schedule="linear", learning_rate=0.01)
    return config


@pytest.mark.slow
def test_they_are_trained_with_resumed_and_evaluated(config, tmp_path, undrawn):
    assert main_job.stopped_and_resumed(config, tmp_path)["accuracy"] > 0.9


def test_their_values_have_rules(config):
    config.augment.brighten = 10.0
    with pytest.raises(UserError, match=r"augment\.brighten=10\.0 must be a number from 0 to 9"):
        config_schema.check(config)
    config.optimizer.name = "rmsprob"
    config.augment.brighten = 0.0
    with pytest.raises(UserError, match=r"optimizer\.name='rmsprob' must be .*, rmsprop"):
        config_schema.check(config)


def test_a_config_from_before_them_is_still_one(config):
    del config.augment["brighten"]
    config_schema.check(config)


@pytest.mark.parametrize(
    ("table", "name", "message"),
    [
        (AUGMENTATIONS, "brighten", r"unknown config key 'augment\.brighten'"),
        (SOURCES, "stripes:", r"'stripes:8' is no dataset: write digits, "),
        (OPTIMIZERS, "rmsprop", r"optimizer\.name='rmsprop' must be one of adamw, "),
        (SCHEDULES, "linear", r"optimizer\.schedule='linear' must be one of constant, "),
    ],
)
def test_where_one_is_gone_a_line_names_it(table, name, message, config, monkeypatch, tmp_path):
    monkeypatch.delitem(table, name)
    with pytest.raises(UserError, match=message):
        train.train(config, tmp_path / "run")
