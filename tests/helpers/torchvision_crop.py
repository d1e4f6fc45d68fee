"""The crop of torchvision, by its definition."""

import math


def drawn_as_in_torchvision(rng, height, width, least_area):
    """Top, left, height and width of a crop, by the definition of `RandomResizedCrop`."""
    for _ in range(10):
        area = height * width * rng.uniform(least_area, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            return (
                rng.integers(0, height - rows + 1),
                rng.integers(0, width - columns + 1),
                rows,
                columns,
            )
    columns = round(height * 4 / 3) if width / height > 4 / 3 else width
    rows = round(width / (3 / 4)) if width / height < 3 / 4 else height
    return (height - rows) // 2, (width - columns) // 2, rows, columns
