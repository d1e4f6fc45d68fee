"""The three ways to another size, against sums over pixels written out in NumPy."""

import numpy as np
import pytest
from PIL import Image

from eanet.data.resize import RESIZES

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 33), dtype=np.uint8)


def weights(old, new, start=0.0, end=None):
    """`[new, old]`: a triangle around each new pixel, as wide as the old pixels it stands for."""
    scale = ((old if end is None else end) - start) / new
    width = max(scale, 1.0)
    centres = start + (np.arange(new) + 0.5) * scale
    distances = np.abs(np.arange(old) + 0.5 - centres[:, None])
    inside = np.clip(1 - distances / width, 0, None)
    return inside / inside.sum(1, keepdims=True)


def resized(how, size, image=IMAGE):
    result = RESIZES[how](Image.fromarray(image), size)
    assert result.size == size
    return np.asarray(result).astype(float)


@pytest.mark.parametrize("size", [(8, 8), (7, 11), (50, 40), (33, 5)])
def test_squash_averages_over_all_that_a_pixel_stands_for(size):
    width, height = size
    expected = weights(20, height) @ IMAGE @ weights(33, width).T
    np.testing.assert_allclose(resized("squash", size), expected, atol=1.01)


def test_crop_keeps_the_middle_in_its_shape():
    expected = weights(20, 8) @ IMAGE[:, 6:27] @ weights(21, 8, 0.5, 20.5).T
    # At the borders the pixels beside the crop count too, or do not.
    np.testing.assert_allclose(resized("crop", (8, 8))[:, 1:-1], expected[:, 1:-1], atol=1.01)


def test_pad_keeps_all_of_it_between_black_borders():
    pixels = resized("pad", (16, 16))
    assert not pixels[:3].any() and not pixels[13:].any()
    expected = weights(20, 10) @ IMAGE @ weights(33, 16).T
    np.testing.assert_allclose(pixels[3:13], expected, atol=1.01)


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1)])
def test_pad_leaves_a_line_of_what_is_very_thin(shape):
    assert (resized("pad", (8, 8), np.full(shape, 255, np.uint8)) == 255).sum() == 8


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (8, 8, 3)])
def test_every_size_and_kind_is_taken(how, shape):
    resized(how, (8, 8), np.zeros(shape, np.uint8))
