"""Attention laid over copies of an image, as a piece of HTML that asks the network for nothing."""

import numpy as np
from jaxtyping import Float
from PIL import Image

from eanet.atlas import mosaic
from eanet.atlas.markup import data_uri
from eanet.atlas.photos import Photo

_MOST_NUMBERS = 2**20  # of all heads, units and tokens of an image that are shown
_MOST_ACROSS = 64  # units beside one another


def explained(units: bool) -> str:
    """What is to be seen in a sheet: attention over units, or attention rollout."""
    what = (
        "A row is a block, a column a unit; each small picture is as bright as the attention of "
        "its tokens to the unit, against the most in that picture, so that strength does not show. "
        "Below, a row is a head."
        if units
        else "A picture for each block: what of the mean token comes from where, against the most."
    )
    return f"{what} Where a model looks is not why it decides."


def of_photo(photo: Photo, grid: tuple[int, int], key: str, *, units: bool) -> str:
    """Sheets of all blocks, then of each block's heads; `key` is unique in the page."""
    rows, columns = grid
    thumbnail = data_uri(Image.fromarray(mosaic.small(photo.pixels)))
    copies = (
        f'<svg width="0" height="0" style="position: absolute"><pattern id="{key}" '
        f'width="{columns}" height="{rows}" patternUnits="userSpaceOnUse"><image '
        f'href="{thumbnail}" width="{columns}" height="{rows}"/></pattern></svg>'
        f'<svg class="photo" role="img" viewBox="0 0 {columns} {rows}"><title>the image</title>'
        f'<rect width="{columns}" height="{rows}" fill="url(#{key})"/></svg>'
    )
    all_blocks = np.stack([attention.mean(0) for attention in photo.attention])
    if not units:
        all_blocks = all_blocks.swapaxes(0, 2)  # in a row
    parts = [copies, _sheet(all_blocks, grid, key)]
    many = sum(attention.size for attention in photo.attention) > _MOST_NUMBERS
    for index, attention in enumerate(photo.attention if units and not many else []):
        parts.append(
            f"<details><summary>Block {index + 1}: heads × units</summary>"
            f"{_sheet(attention, grid, key)}</details>"
        )
    return "".join(parts)


def _sheet(attention: Float[np.ndarray, "down n across"], grid: tuple[int, int], key: str) -> str:
    rows, columns = grid
    tokens = mosaic.scaled(attention[..., :_MOST_ACROSS].swapaxes(1, 2))
    down, across = tokens.shape[:2]
    size = f'width="{across * columns}" height="{down * rows}"'
    lines = "".join(f"M0 {row * rows}h{across * columns}" for row in range(1, down))
    lines += "".join(f"M{column * columns} 0v{down * rows}" for column in range(1, across))
    veil = data_uri(mosaic.veil(mosaic.on_grid(tokens, grid)))
    return (
        f'<div class="scroll"><svg class="veil" role="img" '
        f'style="min-width: {2.2 * across:.1f}rem; max-width: {7 * across}rem" '
        f'viewBox="0 0 {across * columns} {down * rows}"><title>attention on the image</title>'
        f'<rect {size} fill="url(#{key})"/><image href="{veil}" {size}/>'
        f'<path d="{lines}" stroke="#fff" stroke-width="{columns / 20}"/></svg></div>'
    )
