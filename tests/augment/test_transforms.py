import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eanet.augment import transforms
from eanet.prng import IMPLEMENTATIONS, random_key
from tests.helpers.augment_cases import jitted, make_images, make_targets
from tests.helpers.torchvision_crop import drawn_as_in_torchvision

# Compiled once for each shape.
rotate, zoom, adjust_contrast = (
    jax.jit(function)
    for function in (transforms.rotate, transforms.zoom, transforms.adjust_contrast)
)
SHAPES = [(4, 32, 32, 3), (4, 9, 14, 1)]


# The reference: float64, one pixel at a time, by the definition of the mirror.


def mirrored(image, row, column):
    def inside(index, size):
        while not 0 <= index < size:
            index = -1 - index if index < 0 else 2 * size - 1 - index
        return index

    return image[inside(row, image.shape[0]), inside(column, image.shape[1])].astype(np.float64)


def bilinear(image, row, column):
    top, left = math.floor(row), math.floor(column)
    down, right = row - top, column - left
    upper = (1 - right) * mirrored(image, top, left) + right * mirrored(image, top, left + 1)
    lower = (1 - right) * mirrored(image, top + 1, left) + right * mirrored(
        image, top + 1, left + 1
    )
    return (1 - down) * upper + down * lower


def transformed(image, matrix):
    """`matrix` takes (x, y), counted from the centre of the result, to the place in `image`."""
    centre_y, centre_x = (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
    result = np.empty(image.shape, np.float64)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            x, y = matrix @ np.array([column - centre_x, row - centre_y])
            result[row, column] = bilinear(image, y + centre_y, x + centre_x)
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_rotate_equals_reference(shape):
    images = make_images(shape)
    angles = np.linspace(-math.pi, 2.5, shape[0])
    expected = [
        transformed(
            image, np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]], dtype=np.float64)
        )
        for image, a in zip(images, angles, strict=True)
    ]
    rotated = rotate(images, jnp.asarray(angles, jnp.float32))
    np.testing.assert_allclose(rotated, expected, atol=2e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_zoom_equals_reference(shape):
    images = make_images(shape)
    heights, widths = np.linspace(0.1, 1.9, shape[0]), np.linspace(1.7, 0.6, shape[0])
    expected = [
        transformed(image, np.diag([width, height]))
        for image, height, width in zip(images, heights, widths, strict=True)
    ]
    zoomed = zoom(images, jnp.asarray(heights, jnp.float32), jnp.asarray(widths, jnp.float32))
    np.testing.assert_allclose(zoomed, expected, atol=1e-4)


def test_adjust_contrast_equals_reference():
    images = make_images((4, 9, 14, 3)) + 3.0
    factors = np.array([0.0, 0.9, 1.0, 1.1], np.float32)
    mean = images.astype(np.float64).mean(axis=(1, 2), keepdims=True)
    expected = (images - mean) * factors[:, None, None, None] + mean
    np.testing.assert_allclose(adjust_contrast(images, factors), expected, atol=1e-5)


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


def keras_layers(keras):
    return {
        "rotation": keras.layers.RandomRotation((-0.5, 0.5), fill_mode="reflect"),
        "zoom": keras.layers.RandomZoom(0.9, 0.9, fill_mode="reflect"),
        "contrast": keras.layers.RandomContrast(0.9),
    }


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["rotation", "zoom", "contrast"])
def test_equals_keras_for_the_same_draws(keras, shape, name):
    layer = keras_layers(keras)[name]
    images = make_images(shape)
    with jax.numpy_rank_promotion("allow"):
        draws = layer.get_random_transformation(jnp.asarray(images), training=True)
        expected = layer.transform_images(jnp.asarray(images), draws, training=True)
    if name == "rotation":
        ours = rotate(images, draws["angle"] * (math.pi / 180))
    elif name == "zoom":
        ours = zoom(images, draws["height_zoom"][:, 0], draws["width_zoom"][:, 0])
    else:
        # Keras clips negative values away here, and only in training.
        ours = jnp.clip(adjust_contrast(images, draws["contrast_factor"][:, 0, 0, 0]), 0, 255)
    differences = np.abs(np.asarray(ours) - np.asarray(expected))
    print(f"{name} {shape}: largest {differences.max():.1e}, mean {differences.mean():.1e}")
    assert differences.max() <= 1e-4


@pytest.mark.parametrize("turns", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("size", [9, 12])
def test_quarter_turns_are_rot90(turns, size):
    images = make_images((2, size, size, 3))
    rotated = rotate(images, jnp.full(2, turns * math.pi / 2))
    np.testing.assert_allclose(rotated, np.rot90(images, turns, axes=(1, 2)), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_that_change_nothing(shape):
    images = jnp.asarray(make_images(shape))
    nothing, one = jnp.zeros(shape[0]), jnp.ones(shape[0])
    np.testing.assert_array_equal(rotate(images, nothing), images)
    np.testing.assert_array_equal(zoom(images, one, one), images)
    np.testing.assert_allclose(adjust_contrast(images, one), images, atol=1e-6)
    np.testing.assert_array_equal(transforms.random_erasing(random_key(0), images, 0.0), images)
    np.testing.assert_array_equal(transforms.pad_and_crop(random_key(0), images, 0), images)


def test_rotation_there_and_back_keeps_a_smooth_centre():
    rows, columns = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    images = (np.sin(rows / 6) + np.cos(columns / 5))[None, :, :, None].astype(np.float32)
    angle = jnp.full(1, 0.4)
    back = rotate(rotate(images, angle), -angle)
    np.testing.assert_allclose(back[:, 10:22, 10:22], images[:, 10:22, 10:22], atol=0.05)


def test_flip_mirrors_some_images_and_twice_is_nothing():
    images = jnp.asarray(make_images((64, 4, 6, 3)))
    key = random_key(1)
    once = transforms.random_flip(key, images)
    is_kept = np.all(once == images, axis=(1, 2, 3))
    is_mirrored = np.all(once == images[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(is_kept ^ is_mirrored)
    assert 16 < is_kept.sum() < 48
    np.testing.assert_array_equal(transforms.random_flip(key, once), images)


def record(monkeypatch, name):
    """Collects the drawn parameters that reach the deterministic function `name`."""
    drawn = []

    def spy(images, *parameters):
        drawn.extend(np.asarray(parameter) for parameter in parameters)
        return images

    monkeypatch.setattr(transforms, name, spy)
    return drawn


def assert_uniform(draws, low, high):
    assert draws.shape == (4000,)
    assert low <= draws.min() and draws.max() <= high
    quantiles = np.quantile((draws - low) / (high - low), [0.01, 0.25, 0.5, 0.75, 0.99])
    np.testing.assert_allclose(quantiles, [0.01, 0.25, 0.5, 0.75, 0.99], atol=0.04)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_drawn_parameters_fill_their_range(monkeypatch, implementation):
    images = jnp.zeros((4000, 1, 1, 1))
    key = random_key(3, implementation)
    angles = record(monkeypatch, "rotate")
    transforms.random_rotation(key, images, 0.1)
    assert_uniform(angles[0], -0.2 * math.pi, 0.2 * math.pi)
    factors = record(monkeypatch, "adjust_contrast")
    transforms.random_contrast(key, images, 0.1)
    assert_uniform(factors[0], 0.9, 1.1)
    factors = record(monkeypatch, "zoom")
    transforms.random_zoom(key, images, 0.2)
    for factor in factors:
        assert_uniform(factor, 0.8, 1.2)
    assert abs(np.corrcoef(factors)[0, 1]) < 0.06


@pytest.mark.parametrize("shape", [(600, 5, 8, 1), (600, 8, 5, 2)])
def test_pad_and_crop_shifts_evenly_in_both_directions(shape):
    images = make_images(shape) + 10.0  # never zero, the value of the padding
    pixels = 2
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    height, width = shape[1:3]
    shifted = np.asarray(transforms.pad_and_crop(random_key(0), jnp.asarray(images), pixels))
    counts = np.zeros((5, 5), int)
    matches = np.zeros(shape[0], int)
    for row in range(5):
        for column in range(5):
            view = padded[:, row : row + height, column : column + width]
            equal = np.all(view == shifted, axis=(1, 2, 3))
            counts[row, column] = equal.sum()
            matches += equal
    assert np.all(matches == 1)
    assert counts.min() > 8 and counts.max() < 48  # 24 are expected


@pytest.mark.parametrize("shape", [(4, 32, 32, 3), (4, 9, 14, 1)])
def test_resized_crop_equals_pillow(shape):
    images = make_images(shape)
    _, height, width, _ = shape
    boxes = [(0, 0, height, width), (2, 3, 5, 11), (height - 1, 0, 1, 7), (4, width - 9, 4, 9)]
    expected = np.empty(shape, np.float32)
    for image, (top, left, rows, columns), result in zip(images, boxes, expected, strict=True):
        for channel in range(shape[-1]):
            part = Image.fromarray(image[top : top + rows, left : left + columns, channel])
            result[..., channel] = part.resize((width, height), Image.Resampling.BILINEAR)
    arguments = jnp.asarray(boxes, jnp.float32).T
    resized = jax.jit(transforms.resized_crop)(images, *arguments)
    np.testing.assert_allclose(resized, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "least_area"), [((32, 32), 0.08), ((32, 32), 0.8), ((8, 20), 0.9), ((20, 8), 0.5)]
)
def test_crops_are_drawn_as_in_torchvision(monkeypatch, size, least_area):
    boxes = record(monkeypatch, "resized_crop")
    transforms.random_resized_crop(random_key(2), jnp.zeros((4000, *size, 1)), least_area)
    rng = np.random.default_rng(0)
    expected = np.transpose([drawn_as_in_torchvision(rng, *size, least_area) for _ in range(4000)])
    for ours, theirs in zip(boxes, expected, strict=True):
        ours, theirs = (np.bincount(np.asarray(x, int), minlength=33) for x in (ours, theirs))
        shares = np.cumsum(ours) / 4000, np.cumsum(theirs) / 4000
        np.testing.assert_allclose(*shares, atol=0.04)


def test_erased_boxes_have_the_promised_shape():
    shape = (6400, 32, 32, 3)
    erased, _ = jitted(random_erasing=0.25)(random_key(0), np.ones(shape), make_targets(6400))
    erased = np.asarray(erased)
    assert set(np.unique(erased)) == {0.0, 1.0}
    assert np.all(erased == erased[..., :1])
    hit = [image[..., 0] == 0 for image in erased if not image.all()]
    assert 1450 < len(hit) < 1750
    boxes = []
    for mask in hit:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert mask.sum() == height * width  # a filled rectangle
        boxes.append((height, width))
    heights, widths = np.array(boxes).T
    areas = heights * widths / 1024
    assert 0.015 < areas.min() < 0.06 and 0.33 < areas.max() < 0.42
    ratios = np.log(heights / widths)
    assert np.abs(ratios).max() < math.log(1 / 0.3) + 0.2
    assert abs(ratios.mean()) < 0.2 and ratios.std() > 0.5
    covered = np.mean(hit, axis=0)
    assert covered.min() > 0  # every pixel is reached, the corners too
