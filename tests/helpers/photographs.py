"""Photographs of many sizes, in classes of unlike sizes: cut from those that libraries ship."""

from pathlib import Path

import numpy as np
from PIL import Image

_TURNED = 6  # of EXIF: by a quarter clockwise for display


def write_photographs(root: Path, counts: dict[str, int], seed: int = 0) -> list[Path]:
    """Writes `CLASS/NUMBER.jpg`, so many of each of the classes "china", "flower" and "portrait".

    Some lie in a folder below their class, and every fifth is turned by its EXIF orientation.
    """
    rng = np.random.default_rng(seed)
    written = []
    for name, count in counts.items():
        whole = _whole(name)
        for number in range(count):
            width, height = map(int, rng.integers(24, 72, 2))
            left = int(rng.integers(whole.width - width))
            top = int(rng.integers(whole.height - height))
            part = whole.crop((left, top, left + width, top + height))
            exif = Image.Exif()
            if number % 5 == 0:
                part = part.transpose(Image.Transpose.ROTATE_90)
                exif[0x0112] = _TURNED
            path = root / name / ("more" if number % 7 == 6 else "") / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            part.save(path, quality=90, exif=exif)
            written.append(path)
    return written


def _whole(name: str) -> Image.Image:
    if name == "portrait":
        from matplotlib import cbook

        path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
        return Image.open(path).convert("RGB")
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(f"{name}.jpg"))
