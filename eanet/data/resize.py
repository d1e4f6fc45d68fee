"""Images of any size become images of the size that a model takes: bilinear, antialiased.

The one place for it: data sets, prediction and the demo resize here.
"""

from collections.abc import Callable
from typing import Any

import numpy as np


def _squash(image: Any, size: tuple[int, int]) -> Any:
    from PIL.Image import Resampling

    return image.resize(size, Resampling.BILINEAR)


def _crop(image: Any, size: tuple[int, int]) -> Any:
    from PIL import ImageOps
    from PIL.Image import Resampling

    return ImageOps.fit(image, size, method=Resampling.BILINEAR)


def _pad(image: Any, size: tuple[int, int]) -> Any:
    """As Pillow does, but of what is so thin that a side would vanish a line of pixels stays."""
    from PIL import ImageOps

    (wide, high), (width, height) = image.size, size
    if wide * height > width * high:
        inner = width, max(1, round(high / wide * width))
    else:
        inner = max(1, round(wide / high * height)), height
    return ImageOps.pad(_squash(image, inner), size)


# Of an image of Pillow and a width and height, the image in that size.
RESIZES: dict[str, Callable[[Any, tuple[int, int]], Any]] = {
    "squash": _squash,  # the whole image; its sides change by factors of their own
    "crop": _crop,  # the largest part around the centre that has the shape wanted
    "pad": _pad,  # the whole image in its own shape, between black borders
}

DEFAULT = "squash"


def fit(image: Any, size: tuple[int, int], how: str) -> Any:
    """An image of Pillow in a height and width, untouched where it has them, see `RESIZES`."""
    height, width = size
    return image if image.size == (width, height) else RESIZES[how](image, (width, height))


def pixels(image: Any, shape: tuple[int, int, int], how: str | None) -> np.ndarray:
    """The same as `uint8[H, W, C]` of this shape; without `how` it must have the size."""
    height, width, _ = shape
    fitted = fit(image, (height, width), how) if how else image
    return np.asarray(fitted).reshape(shape)
