"""What a training step takes: which examples, and how they come to the model.

Every random draw is a function of seed and step, or of seed and epoch, alone.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from eanet.augment.pipeline import augment, augment_pixels
from eanet.prng import lowest_word, random_key

# Purposes of the seed.
_STEPS, _ORDER = 1, 2

Prepare = Callable[..., tuple[Array, Array, Array]]


def normalizer(mean: np.ndarray, std: np.ndarray) -> Callable[[Array], Array]:
    """Maps uint8 images `[B, H, W, C]` to float32 of zero mean and unit deviation per channel."""
    mean, std = mean[None, None, None, :], std[None, None, None, :]
    return lambda images: (images.astype(jnp.float32) - mean) / std


def epoch_order(
    seed: int, epoch: int, num_examples: int, batch_size: int
) -> Int[Array, "{num_examples}+{batch_size}"]:
    """The indices of an epoch's examples, then those of the batch that reaches into the next.

    A function of seed and epoch alone: every example once an epoch, none left out where the batch
    size does not divide the number of examples.
    """
    orders = [_permutation(lowest_word(seed), epoch + i, num_examples) for i in range(2)]
    return jnp.concatenate([orders[0], orders[1][:batch_size]])


@partial(jax.jit, static_argnums=2)
def _permutation(
    seed: UInt32[Array, ""], epoch: Int[Array, ""], num_examples: int
) -> Int[Array, "{num_examples}"]:
    key = jax.random.fold_in(jax.random.key(seed), _ORDER)
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def make_prepare(
    *,
    num_classes: int,
    normalize: Callable[[Array], Array],
    augmentation: Mapping[str, Any],
    random_bits: str,
    mild_from: int | None = None,
) -> Prepare:
    """Builds `prepare(seed, step, images, labels)` -> images, targets, one dropout key an image.

    The images come as uint8 and leave normalised and augmented, the labels leave as rows of
    probabilities. Seed and step are arguments, so that all seeds share a compiled program.
    Augmentation is mild from the step `mild_from` on.
    """

    def prepare(
        seed: UInt32[Array, ""],
        step: Int[Array, ""],
        images: UInt8[Array, "b height width c"],
        labels: Int[Array, "b"],
    ) -> tuple[Float[Array, "b height width c"], Float[Array, "b classes"], Key[Array, "b"]]:
        key = jax.random.fold_in(random_key(seed, random_bits), _STEPS)
        key = jax.random.fold_in(key, step)
        keys = jax.random.split(key, 1 + len(images))
        batch_key = keys[0]
        mild = None if mild_from is None else step >= mild_from
        pixels = augment_pixels(batch_key, images, mild=mild, **augmentation)
        augmented, targets = augment(
            batch_key,
            normalize(pixels),
            jax.nn.one_hot(labels, num_classes),
            mild=mild,
            **augmentation,
        )
        return augmented, targets, keys[1:]

    return prepare
