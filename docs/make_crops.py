"""Writes a small data set of real images: crops of pictures of scikit-image and scikit-learn.

python docs/make_crops.py DIR [--train=20] [--test=25] [--side=96] [--mixed]

One class a picture. Training crops lie in its left half, test crops in its right half, so that no
pixel is in both. With --mixed they have sides from half to one and a half of it, and a class has
the fewer crops the later it comes, down to a fifth. Needs scikit-image, which nothing else here
does.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = [
    "astronaut",
    "brick",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "ihc",
    "moon",
    "motorcycle_left",
    "page",
    "retina",
    "rocket",
]


def pictures() -> dict[str, Image.Image]:
    """All pictures in colour, by their names."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    folder = Path(skimage.data.__file__).parent
    found = {name: next(folder.glob(f"{name}.*g")) for name in NAMES}
    return {
        **{name: Image.open(path).convert("RGB") for name, path in found.items()},
        **{name: Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")},
    }


def main() -> None:
    """Writes `train/CLASS/NUMBER.png` and `test/CLASS/NUMBER.png`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name, default in (("train", 20), ("test", 25), ("side", 96)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--mixed", action="store_true")
    options, rng = parser.parse_args(), np.random.default_rng(0)
    found = sorted(pictures().items())
    for place, (name, picture) in enumerate(found):
        half = picture.width // 2
        share = 1 - 0.8 * place / (len(found) - 1) if options.mixed else 1
        for part, first, count in (("train", 0, options.train), ("test", half, options.test)):
            folder = options.folder / part / name
            folder.mkdir(parents=True)
            for number in range(round(share * count)):
                width = height = options.side
                if options.mixed:
                    width, height = rng.integers(options.side // 2, 3 * options.side // 2, 2)
                left = first + int(rng.integers(half - width + 1))
                top = int(rng.integers(picture.height - height + 1))
                crop = picture.crop((left, top, left + int(width), top + int(height)))
                crop.save(folder / f"{number}.png")


if __name__ == "__main__":
    main()
