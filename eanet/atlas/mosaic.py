"""Small images side by side: patches in their images, and attention laid over an image."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

_SIDE = 64  # pixels of the longer side of a small image, at most
_VEIL = 0.85  # how dark the token is that has no attention


def small(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "height width 3"]:
    """The image in colours, made smaller where it is large."""
    picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).convert("RGB")
    picture.thumbnail((_SIDE, _SIDE))
    return np.asarray(picture)


def on_grid(
    values: Float[np.ndarray, "*shape n"], grid: tuple[int, int]
) -> Float[np.ndarray, "*shape rows columns"]:
    """Values of tokens where their patches are."""
    return values.reshape(*values.shape[:-1], *grid)


def scaled(values: Float[np.ndarray, "*shape n"]) -> Float[np.ndarray, "*shape n"]:
    """As fractions of the largest of the last axis."""
    return values / np.maximum(values.max(-1, keepdims=True), 1e-30)


def overlay(
    image: UInt8[np.ndarray, "h w 3"], attention: Float[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image, darker the less attention, from 0 to 1, a patch has."""
    height, width = image.shape[:2]
    light = np.asarray(Image.fromarray(attention.astype(np.float32)).resize((width, height), 0))
    return (image * (1 - _VEIL + _VEIL * light[..., None])).astype(np.uint8)


def sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]], gap: int = 2
) -> UInt8[np.ndarray, "height width 3"]:
    """Images of one size in rows, with white between them."""
    framed = [
        [np.pad(each, [(0, gap), (0, gap), (0, 0)], constant_values=255) for each in row]
        for row in rows
    ]
    return np.concatenate([np.concatenate(row, 1) for row in framed])[:-gap, :-gap]


def veil(attention: Float[np.ndarray, "heads units rows columns"]) -> Image.Image:
    """A sheet to lay over repeated images, one pixel a patch: black, and clear where attention is.

    Rows are heads, columns units.
    """
    heads, units, rows, columns = attention.shape
    dark = (255 * _VEIL * (1 - attention)).astype(np.uint8)
    dark = dark.swapaxes(1, 2).reshape(heads * rows, units * columns)
    return Image.merge("LA", [Image.new("L", dark.shape[::-1]), Image.fromarray(dark)])


def patch_box(token: int, grid: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height of a patch as fractions of its image."""
    rows, columns = grid
    row, column = divmod(int(token), columns)
    return column / columns, row / rows, 1 / columns, 1 / rows
