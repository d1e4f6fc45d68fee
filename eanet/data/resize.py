"""Images of any size become images of the size that a model takes: bilinear, antialiased."""

from collections.abc import Callable
from functools import partial
from typing import Any

from PIL import ImageOps
from PIL.Image import Resampling

# Of an image of Pillow and a width and height, the image in that size.
RESIZES: dict[str, Callable[[Any, tuple[int, int]], Any]] = {
    # The whole image; its sides change by factors of their own.
    "squash": lambda image, size: image.resize(size, Resampling.BILINEAR),
    # The largest part around the centre that has the shape wanted.
    "crop": partial(ImageOps.fit, method=Resampling.BILINEAR),
    # The whole image in its own shape, between black borders.
    "pad": partial(ImageOps.pad, method=Resampling.BILINEAR),
}

DEFAULT = "squash"
