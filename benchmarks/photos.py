"""Pictures for measurements, drawn at random and written as files."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 224  # pixels of a photograph
_CLASSES, _DIFFERENT = 2, 64


def write_photos(folder: Path, train: int, test: int) -> None:
    """JPEG of `SIDE` x `SIDE`, as smooth as photographs: `train/CLASS/*` and `test/CLASS/*`."""
    coarse = np.random.default_rng(0).integers(0, 256, (_DIFFERENT, 16, 16, 3), dtype=np.uint8)
    bicubic = Image.Resampling.BICUBIC
    photos = [Image.fromarray(each).resize((SIDE, SIDE), bicubic) for each in coarse]
    for part, count in (("train", train), ("test", test)):
        write(folder / part, (photos[number % _DIFFERENT] for number in range(count)), "jpg")


def write(folder: Path, images: Iterable[Image.Image], ending: str) -> None:
    """Writes them as `CLASS/NUMBER.ENDING`."""
    for number, image in enumerate(images):
        path = folder / str(number % _CLASSES) / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
