import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.augment.mixing import cutmix, mixup
from eanet.prng import random_key
from tests.helpers.augment_cases import jitted, make_images, make_targets, numbered


def test_mixup_mixes_images_and_targets_alike():
    images, targets = make_images(), make_targets(6)
    mixed, mixed_targets = jax.jit(mixup)(random_key(0), images, targets, 1.0)
    weight = mixed_targets[1, 1]
    assert 0.05 < weight < 0.95
    np.testing.assert_allclose(
        mixed, weight * images + (1 - weight) * np.roll(images, 1, axis=0), atol=1e-6
    )
    np.testing.assert_allclose(np.sum(mixed_targets, axis=1), 1.0, atol=1e-6)


@pytest.mark.slow
def test_mixup_weight_follows_the_beta_distribution():
    images, targets = jnp.zeros((2, 1, 1, 1)), jnp.eye(2)

    @jax.jit
    def draw(alpha):
        keys = jax.random.split(random_key(5), 500)
        return jax.vmap(lambda key: mixup(key, images, targets, alpha)[1][0, 0])(keys)

    for alpha in (1e-3, 0.2, 1.0, 50.0):
        weights = draw(alpha)
        assert np.all((weights >= 0) & (weights <= 1))
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(np.mean(weights) - 0.5) < 4 * math.sqrt(variance / 500)
        np.testing.assert_allclose(np.var(weights), variance, rtol=0.2)


@pytest.mark.parametrize("size", [(8, 8), (7, 12)])
def test_cutmix_weight_is_the_area_that_remains(size):
    shape = (5, *size, 2)
    number = np.arange(5, dtype=np.float32)[:, None, None, None]
    images, targets = np.broadcast_to(number, shape), np.eye(5, dtype=np.float32)
    cut = jax.jit(functools.partial(cutmix, alpha=1.0))
    own_weights = []
    for seed in range(100):
        mixed, mixed_targets = cut(random_key(seed), images, targets)
        own = np.asarray(mixed) == number
        partner = np.asarray(mixed) == np.roll(number, 1, axis=0)
        assert np.all(own | partner)
        np.testing.assert_allclose(np.diag(mixed_targets), own.mean(axis=(1, 2, 3)), atol=1e-6)
        np.testing.assert_allclose(np.sum(mixed_targets, axis=1), 1.0, atol=1e-6)
        rows, columns = (partner[0, ..., 0].any(axis=axis).sum() for axis in (1, 0))
        assert partner[0, ..., 0].sum() == rows * columns
        own_weights.append(float(mixed_targets[0, 0]))
    assert np.min(own_weights) < 0.35 and np.max(own_weights) > 0.9


def test_mixup_and_cutmix_take_turns():
    targets = make_targets(4, classes=4)
    images = numbered(4)
    run = jitted(mixup=1.0, cutmix=1.0)
    blended = sum(
        not np.all(np.isin(run(random_key(seed), images, targets)[0], [1, 2, 3, 4]))
        for seed in range(100)
    )
    assert 30 < blended < 70
