"""Images of any size become images of the size that a model takes: bilinear, antialiased."""

from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import ImageOps
from PIL.Image import Resampling


def _pad(image: Any, size: tuple[int, int]) -> Any:
    """As Pillow does, but of what is so thin that a side would vanish a line of pixels stays."""
    (wide, high), (width, height) = image.size, size
    if wide * height > width * high:
        inner = width, max(1, round(high / wide * width))
    else:
        inner = max(1, round(wide / high * height)), height
    return ImageOps.pad(image.resize(inner, Resampling.BILINEAR), size)


# Of an image of Pillow and a width and height, the image in that size.
RESIZES: dict[str, Callable[[Any, tuple[int, int]], Any]] = {
    # The whole image; its sides change by factors of their own.
    "squash": lambda image, size: image.resize(size, Resampling.BILINEAR),
    # The largest part around the centre that has the shape wanted.
    "crop": partial(ImageOps.fit, method=Resampling.BILINEAR),
    # The whole image in its own shape, between black borders.
    "pad": _pad,
}

DEFAULT = "squash"
