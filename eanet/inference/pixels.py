"""Whatever a user has at hand as images becomes an array of pixels, or is refused in one line."""

import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from eanet.data.images import quietly
from eanet.errors import UserError
from eanet.inference.decoding import decode_ahead
from eanet.workdir.model_record import ModelRecord

_PATH = (str, os.PathLike)
_AHEAD = 64  # files


def as_pixels(images: Any, record: ModelRecord) -> np.ndarray:
    """The images as `uint8[B, H, W, C]`, or `float32[B, H, W, C]` on the same scale 0..255.

    They may be an array of any library, a list of arrays, the path of a file, or a list of paths;
    files of another size are resized as the model's record says. Of arrays nothing is guessed:
    floats from 0 to 1, channels first, a single image and normalised images are refused with the
    way out.

    Raises:
      UserError: they are not images of this height, width and channels, or a file is none.
    """
    image_shape = record.image_shape
    if isinstance(images, _PATH):
        images = [images]
    if isinstance(images, list | tuple) and images and all(isinstance(i, _PATH) for i in images):
        return _decoded([os.fspath(path) for path in images], record)
    try:
        array = np.asarray(images)
    except Exception as error:  # whatever the other library says of its own arrays
        raise UserError(f"images cannot be taken as one array: {error}") from None
    if array.shape[1:] != image_shape or array.ndim != 4:
        raise UserError(_wrong_shape(array.shape, image_shape))
    if array.dtype == np.uint8:
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(
            f"images of {array.dtype} are not understood: give uint8, or floats from 0 to 255"
        )
    lowest, highest = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (lowest >= 0 and highest <= 255):  # so NaN is refused too
        raise UserError(
            f"float images lie from {lowest:g} to {highest:g} instead of 0 to 255: give pixels as "
            "they come from a file, the model normalises them itself"
        )
    if 0 < highest <= 1:
        raise UserError(
            f"float images lie from {lowest:g} to {highest:g}, on the scale 0 to 1: give "
            "255 * images (or, if they are that dark on the scale 0 to 255, uint8)"
        )
    return array.astype(np.float32, copy=False)


def _decoded(paths: list[str], record: ModelRecord) -> np.ndarray:
    pixels = np.empty((len(paths), *record.image_shape), np.uint8)
    with quietly():
        images = decode_ahead(record, record.resize_policy, paths, most=_AHEAD)
        for place, (_, image) in zip(pixels, images, strict=True):
            if isinstance(image, UserError):
                raise image
            place[:] = image.values
    return pixels


def _wrong_shape(shape: tuple[int, ...], wanted: tuple[int, int, int]) -> str:
    height, width, channels = wanted
    if shape == wanted:
        hint = "; of a single image give images[None]"
    elif shape[1:] == (channels, height, width):
        hint = "; with channels first give images.transpose(0, 2, 3, 1)"
    elif channels == 1 and shape[1:] == (height, width):
        hint = "; of grey images give images[..., None]"
    else:
        hint = ", which is what the model was trained on"
    return f"images have shape {shape} instead of [B, {height}, {width}, {channels}]{hint}"
