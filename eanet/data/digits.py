"""The digits embedded in scikit-learn: 1,797 images of 8x8x1, no download."""

import numpy as np

from eanet.data.base import Decoded, Source, Split, Wanted
from eanet.data.splits import stratified_choice


def digits_source(_argument: str, _wanted: Wanted) -> Source:
    """The digits; every fifth of each class, by a fixed draw, is the test split."""
    return Source("digits", "digits", "scikit-learn digits, test draw 1", _read)


def _read() -> Decoded:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    every = Split(images, digits.target.astype(np.int32))
    test = stratified_choice(every.labels, round(len(every) / 5), seed=0)
    return Decoded(
        {"train": every[~test], "test": every[test]}, tuple(map(str, digits.target_names))
    )
