"""The operations of augmentation policies, as torchvision has them on Pillow's images.

Pixels are uint8, geometry takes the nearest pixel, and what comes from outside the image is black.
All operations are computed for all images, most in a few passes over the pixels, and each image
takes its own.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

Pixels = UInt8[Array, "batch height width channels"]
PerImage = Float[Array, "batch 1 1 1"]

_IN_BOUNDS = "promise_in_bounds"  # all indices are; looking whether they are takes time

HIGHEST_LEVEL = 30
LEVELS = np.arange(-HIGHEST_LEVEL, HIGHEST_LEVEL + 1)
# Of each operation its strength at each level. Some have none, and are not named.
Space = Mapping[str, Float[np.ndarray, "levels"]]

# A place (x, y) of the result shows the place (a·x + b·y + c, d·x + e·y + f) of the image; the
# centre of its first pixel is (1/2, 1/2). From strength, height and width to a, b, c, d, e, f.
_Map = tuple[float, float, float, float, float, float]


def _rotation(degrees: float, height: int, width: int) -> _Map:
    """Counter-clockwise about the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


_GEOMETRY: dict[str, Callable[[float, int, int], _Map]] = {
    "shear_x": lambda by, height, width: (1, by, 0, 0, 1, 0),
    "shear_y": lambda by, height, width: (1, 0, 0, by, 1, 0),
    "translate_x": lambda by, height, width: (1, 0, -by, 0, 1, 0),
    "translate_y": lambda by, height, width: (1, 0, 0, 0, 1, -by),
    "rotate": _rotation,
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


_COLOUR: dict[str, Callable[[Any, Any], Any]] = {
    "brightness": _brightness,
    "color": _saturation,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
OPERATIONS = ("identity", *_GEOMETRY, *_COLOUR)


def operate(
    images: Pixels, operations: Int[Array, "batch"], levels: Int[Array, "batch"], space: Space
) -> Pixels:
    """Applies to each image the operation of that index in `OPERATIONS`.

    Its strength is that of a level from −30 to 30 in the space.
    """
    columns = levels + HIGHEST_LEVEL
    changed = _moved(images, operations, columns, space)
    for name, change in _COLOUR.items():
        chosen = operations == OPERATIONS.index(name)
        strength = jnp.asarray(space.get(name, 0 * LEVELS), jnp.float32)[columns]
        result = change(images, strength[:, None, None, None])
        changed = jnp.where(chosen[:, None, None, None], result, changed)
    return changed


def _moved(
    images: Pixels, operations: Int[Array, "batch"], columns: Int[Array, "batch"], space: Space
) -> Pixels:
    """The images after an operation of `_GEOMETRY`; all others as they are."""
    batch, height, width, channels = images.shape
    maps = jnp.asarray(_fixed_point_maps(height, width, space))[operations, columns]
    a, b, c, d, e, f = (maps[:, i, None, None] for i in range(6))
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    flat = images.reshape(batch, height * width, channels)
    moved = jnp.take_along_axis(flat, index.reshape(batch, -1, 1), axis=1, mode=_IN_BOUNDS)
    return jnp.where(inside[..., None], moved.reshape(images.shape), jnp.uint8(0))


def _fixed_point_maps(
    height: int, width: int, space: Space
) -> Int[np.ndarray, "operations levels 6"]:
    """The maps of all operations in 1/65,536, from the first pixel's centre, as in Pillow.

    Whole numbers leave no doubt about which pixel is the nearest.
    """
    maps = np.zeros((len(OPERATIONS), len(LEVELS), 6))
    maps[..., [0, 4]], maps[..., [2, 5]] = 1, 0.5
    for name, place in _GEOMETRY.items():
        for column, strength in enumerate(space[name]):
            a, b, c, d, e, f = place(strength, height, width)
            centred = a, b, c + (a + b) / 2, d, e, f + (d + e) / 2
            maps[OPERATIONS.index(name), column] = centred
    return np.floor(maps * 65_536 + 0.5).astype(np.int32)
