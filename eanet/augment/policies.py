"""Augmentation policies: which operations an image goes through, and how strong they are.

TrivialAugment (arXiv 2103.10158) takes one operation an image at a strength drawn anew, so that
nothing is to be tuned; RandAugment (arXiv 1909.13719) takes two, all of the same strength. Ranges
of strengths are those of torchvision's `TrivialAugmentWide` and `RandAugment`.
"""

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from eanet.augment.operations import HIGHEST_LEVEL, LEVELS, OPERATIONS, Pixels, Space, operate
from eanet.errors import UserError

_RAND_AUGMENT_OPERATIONS = 2  # one after the other

_SIGNED, _UNSIGNED = LEVELS / HIGHEST_LEVEL, np.abs(LEVELS) / HIGHEST_LEVEL


def _space(
    *, shear: float, across: float, down: float, degrees: float, colour: float, bits: int
) -> Space:
    """From the strengths of the highest level, and how many bits it takes away."""
    return {
        "shear_x": shear * _SIGNED,
        "shear_y": shear * _SIGNED,
        "translate_x": np.trunc(across * _SIGNED),
        "translate_y": np.trunc(down * _SIGNED),
        "rotate": degrees * _SIGNED,
        **{name: colour * _SIGNED for name in ("brightness", "color", "contrast", "sharpness")},
        "posterize": 8 - np.round(bits * _UNSIGNED),
        "solarize": 255 - 255 * _UNSIGNED,
    }


def wide_space() -> Space:
    """The strengths of TrivialAugment, which the paper calls wide."""
    return _space(shear=0.99, across=32, down=32, degrees=135, colour=0.99, bits=6)


def rand_augment_space(height: int, width: int) -> Space:
    """The strengths of RandAugment for images of this size."""
    part = 150 / 331  # of an image's side, as in AutoAugment on images of 331 pixels
    across, down = part * width, part * height
    return _space(shear=0.3, across=across, down=down, degrees=30, colour=0.9, bits=4)


def trivial_augment(key: Key[Array, ""], images: Pixels) -> Pixels:
    """Changes each image by one of `OPERATIONS`, all equally likely, as are its levels."""
    batch = images.shape[:1]
    operation_key, level_key, sign_key = jax.random.split(key, 3)
    operations = jax.random.randint(operation_key, batch, 0, len(OPERATIONS))
    levels = jax.random.randint(level_key, batch, 0, HIGHEST_LEVEL + 1)
    return operate(images, operations, _signs(sign_key, batch) * levels, wide_space())


def rand_augment(key: Key[Array, ""], images: Pixels, level: int) -> Pixels:
    """Changes each image by two of `OPERATIONS` at this level, which may be the same one twice."""
    batch, height, width, _ = images.shape
    for own_key in jax.random.split(key, _RAND_AUGMENT_OPERATIONS):
        operation_key, sign_key = jax.random.split(own_key)
        operations = jax.random.randint(operation_key, (batch,), 0, len(OPERATIONS))
        levels = _signs(sign_key, (batch,)) * level
        images = operate(images, operations, levels, rand_augment_space(height, width))
    return images


def _signs(key: Key[Array, ""], shape: tuple[int, ...]) -> Int[Array, "..."]:
    """−1 or 1 at even odds."""
    return 2 * jax.random.randint(key, shape, 0, 2) - 1


def check(name: str, _: object, image_shape: tuple[int, ...]) -> None:
    """Raises `UserError` for images `[height, width, channels]` that are neither grey nor RGB."""
    if image_shape[-1] not in (1, 3):
        raise UserError(
            f"augment.{name} is for images of 1 or 3 channels, not {image_shape[-1]}; switch it off"
        )
