"""A random part of an image as it is stored, in the size that a model takes.

torchvision's `RandomResizedCrop`, after Szegedy et al. (arXiv 1409.4842): the part has an area
uniform from the least one to all, and a ratio of its sides uniform on a logarithmic scale from 3/4
to 4/3. Where none of ten draws fits into the image, it is the largest such part in the centre.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from eanet.data import resize as resize_lib

_ASPECT = 4 / 3  # the greatest ratio of the sides
_ATTEMPTS = 10


class Crop(NamedTuple):
    """All that decides about the part, besides the size of the image."""

    least_area: float  # as a fraction of the image's
    seed: int
    epoch: int
    example: int  # its index among those that are trained on


def cut(image: Any, size: tuple[int, int], crop: Crop) -> Any:
    """That part of an image of Pillow in a height and width, bilinear, of the part's pixels."""
    width, height = image.size
    return resize_lib.fit(image.crop(box(width, height, crop)), size, "squash")


def box(width: int, height: int, crop: Crop) -> tuple[int, int, int, int]:
    """Left, top, right and bottom edge of the part of an image of this size."""
    draws = _uniform(crop, 2 * _ATTEMPTS + 2)
    *attempts, place = zip(draws[::2], draws[1::2], strict=True)
    for area_draw, ratio_draw in attempts:
        area = width * height * (crop.least_area + area_draw * (1 - crop.least_area))
        ratio = _ASPECT ** (2 * ratio_draw - 1)
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(place[0] * (width - wide + 1)), int(place[1] * (height - high + 1))
            break
    else:
        wide, high = min(width, round(height * _ASPECT)), min(height, round(width * _ASPECT))
        left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _uniform(crop: Crop, count: int) -> list[float]:
    """Numbers of [0, 1) that are a function of seed, epoch and example alone.

    Raw words of a counter-based generator, which NumPy promises not to change.
    """
    stream = np.random.Philox(key=[crop.seed, crop.epoch], counter=[0, 0, 0, crop.example])
    return ((stream.random_raw(count) >> np.uint64(11)) * 2.0**-53).tolist()
