"""TrivialAugment: one operation an image, at a strength drawn anew (arXiv 2103.10158).

The operations and strengths are those of the paper's wide space as in torchvision's
`TrivialAugmentWide` on Pillow's images: pixels are uint8, geometry takes the nearest pixel, and
what comes from outside the image is black. In contrast to RandAugment nothing is to be tuned, and
one operation an image is cheap: all of them are computed for all images, most in a few passes over
the pixels, and each image takes its own.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from eanet.errors import UserError

Pixels = UInt8[Array, "batch height width channels"]
PerImage = Float[Array, "batch 1 1 1"]

_IN_BOUNDS = "promise_in_bounds"  # all indices are; looking whether they are takes time

HIGHEST_LEVEL = 30
_LEVELS = np.arange(-HIGHEST_LEVEL, HIGHEST_LEVEL + 1)
_SIGNED, _UNSIGNED = _LEVELS / HIGHEST_LEVEL, np.abs(_LEVELS) / HIGHEST_LEVEL

# A place (x, y) of the result shows the place (a·x + b·y + c, d·x + e·y + f) of the image; the
# centre of its first pixel is (1/2, 1/2). From strength, height and width to a, b, c, d, e, f.
_Map = tuple[float, float, float, float, float, float]


def _rotation(degrees: float, height: int, width: int) -> _Map:
    """Counter-clockwise about the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


_GEOMETRY: dict[str, tuple[np.ndarray, Callable[[float, int, int], _Map]]] = {
    "shear_x": (0.99 * _SIGNED, lambda by, height, width: (1, by, 0, 0, 1, 0)),
    "shear_y": (0.99 * _SIGNED, lambda by, height, width: (1, 0, 0, by, 1, 0)),
    "translate_x": (np.trunc(32 * _SIGNED), lambda by, height, width: (1, 0, -by, 0, 1, 0)),
    "translate_y": (np.trunc(32 * _SIGNED), lambda by, height, width: (1, 0, 0, 0, 1, -by)),
    "rotate": (135 * _SIGNED, _rotation),
}


def _blend(images: Pixels, other: Array, factors: PerImage) -> Pixels:
    """From the other image through and beyond this one, which a factor of 1 gives."""
    start = other.astype(jnp.float32)
    blended = start + factors * (images.astype(jnp.float32) - start)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def _grey(images: Pixels) -> Int[Array, "batch height width 1"]:
    """Luma of ITU-R 601-2 with weights in 1/65,536; an image of one channel as it is."""
    if images.shape[-1] == 1:
        return images.astype(jnp.int32)
    weights = jnp.array([19595, 38470, 7471])[None, None, None, :]
    luma = jnp.sum(images.astype(jnp.int32) * weights, axis=-1, keepdims=True)
    return (luma + 0x8000) >> 16


def _brightness(images: Pixels, changes: PerImage) -> Pixels:
    return _blend(images, jnp.zeros_like(images), 1 + changes)


def _saturation(images: Pixels, changes: PerImage) -> Pixels:
    return _blend(images, _grey(images), 1 + changes)


def _contrast(images: Pixels, changes: PerImage) -> Pixels:
    count = images.shape[1] * images.shape[2]
    total = jnp.sum(_grey(images), axis=(1, 2, 3), keepdims=True)
    return _blend(images, (2 * total + count) // (2 * count), 1 + changes)  # the mean, rounded


def _sharpness(images: Pixels, changes: PerImage) -> Pixels:
    """Against an image smoothed by a kernel of 5/13 amid eight of 1/13, but for the border."""
    _, height, width, _ = images.shape
    pixels = images.astype(jnp.int32)
    padded = jnp.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = 4 * pixels
    for row, column in itertools.product(range(3), repeat=2):
        total += padded[:, row : row + height, column : column + width]
    inner = np.zeros((1, height, width, 1), bool)
    inner[:, 1:-1, 1:-1] = True
    return _blend(images, jnp.where(inner, (2 * total + 13) // 26, pixels), 1 + changes)


def _posterize(images: Pixels, bits: PerImage) -> Pixels:
    return images & (jnp.uint8(255) << (8 - bits).astype(jnp.uint8))


def _solarize(images: Pixels, thresholds: PerImage) -> Pixels:
    return jnp.where(images < thresholds, images, 255 - images)


def _autocontrast(images: Pixels, _: PerImage) -> Pixels:
    """Stretches each channel of an image over all values."""
    lowest, highest = (
        bound(images, axis=(1, 2), keepdims=True).astype(jnp.float32)
        for bound in (jnp.min, jnp.max)
    )
    # Exact below the next whole number, which a product with 1 / (highest − lowest) is not.
    stretched = (images - lowest) * 255 / jnp.maximum(highest - lowest, 1)
    return jnp.where(highest > lowest, stretched.astype(jnp.uint8), images)


def _equalize(images: Pixels, _: PerImage) -> Pixels:
    """Spreads the values of each channel of an image so that all are about equally frequent."""
    batch, channels = images.shape[0], images.shape[-1]
    values = images.astype(jnp.int32) + 256 * jnp.arange(channels)[None, None, None, :]
    values = values.reshape(batch, -1)  # each channel has numbers of its own
    count = jax.vmap(
        lambda image: jnp.zeros(256 * channels, jnp.int32).at[image].add(1, mode=_IN_BOUNDS)
    )
    histogram = count(values).reshape(batch, channels, 256)
    below = jnp.cumsum(histogram, axis=-1) - histogram
    highest = jnp.max(images, axis=(1, 2))[..., None].astype(jnp.int32)
    step = jnp.take_along_axis(below, highest, axis=-1, mode=_IN_BOUNDS) // 255
    spread = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    spread = jnp.where(step > 0, spread, jnp.arange(256)[None, None, :])
    equalized = jnp.take_along_axis(spread.reshape(batch, -1), values, axis=-1, mode=_IN_BOUNDS)
    return equalized.reshape(images.shape).astype(jnp.uint8)


_COLOUR: dict[str, tuple[np.ndarray, Callable[[Any, Any], Any]]] = {
    "brightness": (0.99 * _SIGNED, _brightness),
    "color": (0.99 * _SIGNED, _saturation),
    "contrast": (0.99 * _SIGNED, _contrast),
    "sharpness": (0.99 * _SIGNED, _sharpness),
    "posterize": (8 - np.round(6 * _UNSIGNED), _posterize),
    "solarize": (255 - 255 * _UNSIGNED, _solarize),
    "autocontrast": (0 * _UNSIGNED, _autocontrast),
    "equalize": (0 * _UNSIGNED, _equalize),
}
OPERATIONS = ("identity", *_GEOMETRY, *_COLOUR)


def trivial_augment(key: Key[Array, ""], images: Pixels) -> Pixels:
    """Changes each image by one of `OPERATIONS`, all equally likely, as are its levels."""
    batch = images.shape[:1]
    operation_key, level_key, sign_key = jax.random.split(key, 3)
    operations = jax.random.randint(operation_key, batch, 0, len(OPERATIONS))
    levels = jax.random.randint(level_key, batch, 0, HIGHEST_LEVEL + 1)
    signs = 2 * jax.random.randint(sign_key, batch, 0, 2) - 1
    return operate(images, operations, signs * levels)


def operate(images: Pixels, operations: Int[Array, "batch"], levels: Int[Array, "batch"]) -> Pixels:
    """Applies to each image the operation of that index in `OPERATIONS`.

    Its strength is given by a level from −30 to 30, whose sign has no meaning for some of them.
    """
    columns = levels + HIGHEST_LEVEL
    changed = _moved(images, operations, columns)
    for name, (strengths, change) in _COLOUR.items():
        chosen = operations == OPERATIONS.index(name)
        strength = jnp.asarray(strengths, jnp.float32)[columns]
        result = change(images, strength[:, None, None, None])
        changed = jnp.where(chosen[:, None, None, None], result, changed)
    return changed


def _moved(images: Pixels, operations: Int[Array, "batch"], columns: Int[Array, "batch"]) -> Pixels:
    """The images after an operation of `_GEOMETRY`; all others as they are."""
    batch, height, width, channels = images.shape
    maps = jnp.asarray(_fixed_point_maps(height, width))[operations, columns]
    a, b, c, d, e, f = (maps[:, i, None, None] for i in range(6))
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    flat = images.reshape(batch, height * width, channels)
    moved = jnp.take_along_axis(flat, index.reshape(batch, -1, 1), axis=1, mode=_IN_BOUNDS)
    return jnp.where(inside[..., None], moved.reshape(images.shape), jnp.uint8(0))


def _fixed_point_maps(height: int, width: int) -> Int[np.ndarray, "operations levels 6"]:
    """The maps of all operations in 1/65,536, from the first pixel's centre, as in Pillow.

    Whole numbers leave no doubt about which pixel is the nearest.
    """
    maps = np.zeros((len(OPERATIONS), len(_LEVELS), 6))
    maps[..., [0, 4]], maps[..., [2, 5]] = 1, 0.5
    for name, (strengths, place) in _GEOMETRY.items():
        for column, strength in enumerate(strengths):
            a, b, c, d, e, f = place(strength, height, width)
            centred = a, b, c + (a + b) / 2, d, e, f + (d + e) / 2
            maps[OPERATIONS.index(name), column] = centred
    return np.floor(maps * 65_536 + 0.5).astype(np.int32)


def check(_: bool, image_shape: tuple[int, ...]) -> None:
    """Raises `UserError` for images `[height, width, channels]` that are neither grey nor RGB."""
    if image_shape[-1] not in (1, 3):
        raise UserError(
            f"augment.trivial_augment is for images of 1 or 3 channels, not {image_shape[-1]}; "
            "switch it off"
        )
