"""Images and targets to augment."""

import functools

import jax
import numpy as np

from eanet.augment.pipeline import augment
from tests.helpers.compiler import AS_FOR_USERS

EXAMPLE = {"flip": True, "rotation": 0.1, "contrast": 0.1, "zoom": 0.2}
EVERYTHING = {**EXAMPLE, "pad_crop": 4, "random_erasing": 0.5, "mixup": 0.8, "cutmix": 1.0}


@functools.cache
def jitted(**switches):
    return jax.jit(functools.partial(augment, **switches), compiler_options=AS_FOR_USERS)


def make_images(shape=(6, 12, 12, 3), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_targets(batch, classes=7):
    return np.eye(classes, dtype=np.float32)[np.arange(batch) % classes]


def numbered(batch, size=8):
    """Images that carry their number, to see afterwards which one a pixel came from."""
    numbers = np.arange(1, batch + 1, dtype=np.float32)[:, None, None, None]
    return np.broadcast_to(numbers, (batch, size, size, 1))
