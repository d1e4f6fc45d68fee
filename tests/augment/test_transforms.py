import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.augment import transforms as augmentations
from eanet.augment.mixing import cutmix, mixup
from eanet.augment.transforms import augment
from eanet.errors import UserError
from eanet.prng import IMPLEMENTATIONS, random_key
from eanet.tools import augment_preview

EXAMPLE = {"flip": True, "rotation": 0.1, "contrast": 0.1, "zoom": 0.2}
EVERYTHING = {**EXAMPLE, "pad_crop": 4, "random_erasing": 0.5, "mixup": 0.8, "cutmix": 1.0}
# Compiled once for each shape.
rotate, zoom, adjust_contrast = (
    jax.jit(function)
    for function in (augmentations.rotate, augmentations.zoom, augmentations.adjust_contrast)
)
SHAPES = [(4, 32, 32, 3), (4, 9, 14, 1)]


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@functools.cache
def jitted(**switches):
    return jax.jit(functools.partial(augment, **switches))


def make_images(shape=(6, 12, 12, 3), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make_targets(batch, classes=7):
    return np.eye(classes, dtype=np.float32)[np.arange(batch) % classes]


def numbered(batch, size=8):
    """Images that carry their number, to see afterwards which one a pixel came from."""
    numbers = np.arange(1, batch + 1, dtype=np.float32)[:, None, None, None]
    return np.broadcast_to(numbers, (batch, size, size, 1))


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
    np.testing.assert_array_equal(augmentations.random_erasing(random_key(0), images, 0.0), images)
    np.testing.assert_array_equal(augmentations.pad_and_crop(random_key(0), images, 0), images)


def test_rotation_there_and_back_keeps_a_smooth_centre():
    rows, columns = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    images = (np.sin(rows / 6) + np.cos(columns / 5))[None, :, :, None].astype(np.float32)
    angle = jnp.full(1, 0.4)
    back = rotate(rotate(images, angle), -angle)
    np.testing.assert_allclose(back[:, 10:22, 10:22], images[:, 10:22, 10:22], atol=0.05)


def test_flip_mirrors_some_images_and_twice_is_nothing():
    images = jnp.asarray(make_images((64, 4, 6, 3)))
    key = random_key(1)
    once = augmentations.random_flip(key, images)
    is_kept = np.all(once == images, axis=(1, 2, 3))
    is_mirrored = np.all(once == images[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(is_kept ^ is_mirrored)
    assert 16 < is_kept.sum() < 48
    np.testing.assert_array_equal(augmentations.random_flip(key, once), images)


def record(monkeypatch, name):
    """Collects the drawn parameters that reach the deterministic function `name`."""
    drawn = []

    def spy(images, *parameters):
        drawn.extend(np.asarray(parameter) for parameter in parameters)
        return images

    monkeypatch.setattr(augmentations, name, spy)
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
    augmentations.random_rotation(key, images, 0.1)
    assert_uniform(angles[0], -0.2 * math.pi, 0.2 * math.pi)
    factors = record(monkeypatch, "adjust_contrast")
    augmentations.random_contrast(key, images, 0.1)
    assert_uniform(factors[0], 0.9, 1.1)
    factors = record(monkeypatch, "zoom")
    augmentations.random_zoom(key, images, 0.2)
    for factor in factors:
        assert_uniform(factor, 0.8, 1.2)
    assert abs(np.corrcoef(factors)[0, 1]) < 0.06


@pytest.mark.parametrize("shape", [(600, 5, 8, 1), (600, 8, 5, 2)])
def test_pad_and_crop_shifts_evenly_in_both_directions(shape):
    images = make_images(shape) + 10.0  # never zero, the value of the padding
    pixels = 2
    padded = np.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    height, width = shape[1:3]
    shifted = np.asarray(augmentations.pad_and_crop(random_key(0), jnp.asarray(images), pixels))
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


def test_mixup_mixes_images_and_targets_alike():
    images, targets = make_images(), make_targets(6)
    mixed, mixed_targets = jax.jit(mixup)(random_key(0), images, targets, 1.0)
    weight = mixed_targets[1, 1]
    assert 0.05 < weight < 0.95
    np.testing.assert_allclose(
        mixed, weight * images + (1 - weight) * np.roll(images, 1, axis=0), atol=1e-6
    )
    np.testing.assert_allclose(np.sum(mixed_targets, axis=1), 1.0, atol=1e-6)


@pytest.mark.slow
def test_mixup_weight_follows_the_beta_distribution():
    images, targets = jnp.zeros((2, 1, 1, 1)), jnp.eye(2)

    @jax.jit
    def draw(alpha):
        keys = jax.random.split(random_key(5), 500)
        return jax.vmap(lambda key: mixup(key, images, targets, alpha)[1][0, 0])(keys)

    for alpha in (1e-3, 0.2, 1.0, 50.0):
        weights = draw(alpha)
        assert np.all((weights >= 0) & (weights <= 1))
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(np.mean(weights) - 0.5) < 4 * math.sqrt(variance / 500)
        np.testing.assert_allclose(np.var(weights), variance, rtol=0.2)


@pytest.mark.parametrize("size", [(8, 8), (7, 12)])
def test_cutmix_weight_is_the_area_that_remains(size):
    shape = (5, *size, 2)
    number = np.arange(5, dtype=np.float32)[:, None, None, None]
    images, targets = np.broadcast_to(number, shape), np.eye(5, dtype=np.float32)
    cut = jax.jit(functools.partial(cutmix, alpha=1.0))
    own_weights = []
    for seed in range(100):
        mixed, mixed_targets = cut(random_key(seed), images, targets)
        own = np.asarray(mixed) == number
        partner = np.asarray(mixed) == np.roll(number, 1, axis=0)
        assert np.all(own | partner)
        np.testing.assert_allclose(np.diag(mixed_targets), own.mean(axis=(1, 2, 3)), atol=1e-6)
        np.testing.assert_allclose(np.sum(mixed_targets, axis=1), 1.0, atol=1e-6)
        rows, columns = (partner[0, ..., 0].any(axis=axis).sum() for axis in (1, 0))
        assert partner[0, ..., 0].sum() == rows * columns
        own_weights.append(float(mixed_targets[0, 0]))
    assert np.min(own_weights) < 0.35 and np.max(own_weights) > 0.9


def test_mixup_and_cutmix_take_turns():
    targets = make_targets(4, classes=4)
    images = numbered(4)
    run = jitted(mixup=1.0, cutmix=1.0)
    blended = sum(
        not np.all(np.isin(run(random_key(seed), images, targets)[0], [1, 2, 3, 4]))
        for seed in range(100)
    )
    assert 30 < blended < 70


def test_the_key_alone_decides():
    images, targets = make_images(), make_targets(6)
    run = jitted(**EVERYTHING)
    first, again, other = (run(random_key(seed), images, targets)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(again, first)
    assert not np.allclose(other, first, atol=0.1)


@pytest.mark.slow
def test_jit_changes_nothing():
    images, targets = jnp.asarray(make_images()), jnp.asarray(make_targets(6))
    expected = augment(random_key(0), images, targets, **EVERYTHING)
    results = jitted(**EVERYTHING)(random_key(0), images, targets)
    for result, eager in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, eager, atol=1e-5)


def test_examples_do_not_influence_each_other():
    images, targets = make_images(), make_targets(6)
    run = jitted(**EXAMPLE, pad_crop=2, random_erasing=0.5)
    before, _ = run(random_key(0), images, targets)
    changed = images.copy()
    changed[2] = 7.0
    after, _ = run(random_key(0), changed, targets)
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(np.asarray(after)[others], np.asarray(before)[others])
    assert not np.allclose(after[2], before[2])


def test_images_of_a_batch_get_different_changes():
    one = make_images((1, 12, 12, 3))
    same = np.repeat(one, 16, axis=0)
    for switches in ({"rotation": 0.1}, {"contrast": 0.1}, {"zoom": 0.2}):
        changed, _ = jitted(**switches)(random_key(0), same, make_targets(16))
        assert len(np.unique(np.asarray(changed).reshape(16, -1), axis=0)) == 16, switches


@pytest.mark.slow
def test_interpolation_keeps_the_range_and_nothing_is_clipped():
    images, targets = make_images((32, 12, 12, 3)), make_targets(32)
    bound = np.abs(images).max()
    key = random_key(0)
    geometric, _ = jitted(flip=True, rotation=0.5, zoom=0.9)(key, images, targets)
    assert np.abs(geometric).max() <= bound * (1 + 1e-6)
    changed, _ = jitted(**EXAMPLE)(key, images, targets)
    # Symmetric values stay so: the training range is the evaluation range.
    np.testing.assert_allclose(np.mean(np.asarray(changed) < 0), 0.5, atol=0.03)
    clipped, _ = jitted(contrast=0.1, keras3_contrast_clip=True)(key, images, targets)
    unclipped, _ = jitted(contrast=0.1)(key, images, targets)
    assert np.min(unclipped) < -2
    np.testing.assert_array_equal(clipped, np.maximum(unclipped, 0))


def operations(switches):
    run = functools.partial(augment, **switches)
    return jax.make_jaxpr(run)(random_key(0), make_images(), make_targets(6))


@pytest.mark.parametrize("switches", [{}, dict.fromkeys(EVERYTHING, 0) | {"flip": False}])
def test_everything_off_leaves_no_operation(switches, unchecked_types):
    assert not operations(switches).eqns


@pytest.mark.parametrize(
    ("name", "trace", "others"),
    [
        ("flip", "rev[", {"rotation", "contrast", "zoom", "pad_crop", "random_erasing", "mixup"}),
        ("rotation", "sin ", {"flip", "contrast", "zoom", "pad_crop", "random_erasing", "mixup"}),
        ("contrast", "reduce_sum", {"flip", "rotation", "zoom", "pad_crop", "random_erasing"}),
        ("zoom", "gather", {"flip", "contrast", "random_erasing", "mixup", "cutmix"}),
        ("pad_crop", " pad[", {"flip", "rotation", "contrast", "zoom", "random_erasing"}),
        ("random_erasing", "sqrt", {"flip", "rotation", "contrast", "zoom", "pad_crop", "mixup"}),
        ("mixup", "gamma", {"flip", "rotation", "contrast", "zoom", "pad_crop", "random_erasing"}),
        ("cutmix", "sqrt", {"flip", "rotation", "contrast", "zoom", "pad_crop", "mixup"}),
    ],
)
def test_what_is_off_leaves_no_trace(name, trace, others):
    assert trace in str(operations({name: EVERYTHING[name]}))
    assert trace not in str(operations({other: EVERYTHING[other] for other in others}))


@pytest.mark.slow
def test_switching_one_on_moves_no_other_draw():
    images, targets = make_images(), make_targets(6)
    key = random_key(0)
    turned, _ = jitted(rotation=0.1)(key, images, targets)
    both, _ = jitted(rotation=0.1, contrast=1e-9)(key, images, targets)
    np.testing.assert_allclose(both, turned, atol=1e-5)
    _, alone = jitted(mixup=1.0)(key, images, targets)
    _, together = jitted(mixup=1.0, flip=True)(key, images, targets)
    np.testing.assert_array_equal(together, alone)


@pytest.mark.slow
def test_bfloat16_is_computed_in_float32():
    rounded = jnp.asarray(make_images(), jnp.bfloat16)
    run = jitted(**EXAMPLE, mixup=0.8)
    low, targets = run(random_key(0), rounded, make_targets(6))
    high, _ = run(random_key(0), rounded.astype(jnp.float32), make_targets(6))
    assert low.dtype == jnp.bfloat16 and targets.dtype == jnp.float32
    np.testing.assert_array_equal(low, high.astype(jnp.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 9, 14, 1), (1, 8, 6, 3)])
def test_shapes_and_types_are_kept(shape):
    images, targets = make_images(shape), make_targets(shape[0])
    changed, mixed = jitted(**EVERYTHING)(random_key(0), images, targets)
    assert changed.shape == images.shape and changed.dtype == jnp.float32
    assert mixed.shape == targets.shape and mixed.dtype == jnp.float32
    assert np.all(np.isfinite(changed))
    np.testing.assert_allclose(np.sum(mixed, axis=1), 1.0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_a_batch_split_over_devices_stays_split_and_equal():
    images, targets = make_images(), make_targets(6)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    run = jitted(**EVERYTHING)
    key = random_key(0)
    arguments = jax.device_put((key, images, targets), (whole, split, split))
    for result, expected in zip(run(*arguments), run(key, images, targets), strict=True):
        assert result.sharding.is_equivalent_to(split, result.ndim)
        np.testing.assert_allclose(result, expected, atol=1e-5)
    compiled = run.lower(*arguments).compile().as_text()
    assert "all-gather" not in compiled


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rotation", 0.6),
        ("rotation", -0.1),
        ("contrast", 1.5),
        ("zoom", 1.0),
        ("pad_crop", -1),
        ("pad_crop", 2.5),
        ("pad_crop", 12),
        ("random_erasing", 1.01),
        ("mixup", -1.0),
        ("cutmix", math.inf),
        ("mixup", math.nan),
        ("zoom", "0.2"),
        ("flip", 2),
        ("keras3_contrast_clip", -1),
    ],
)
def test_values_out_of_range_are_named(key, value, unchecked_types):
    with pytest.raises(UserError) as error:
        augment(random_key(0), make_images(), make_targets(6), **{key: value})
    message = str(error.value)
    assert message.startswith(f"augment.{key}={value!r}") and "\n" not in message


def test_check_accepts_the_limits():
    size = (5, 6, 1)
    augmentations.check(size, **EVERYTHING, keras3_contrast_clip=True)
    augmentations.check(size, rotation=0.5, contrast=1, zoom=0.99, random_erasing=1, flip=False)


@pytest.mark.parametrize(("channels", "switches"), [(1, {"flip": True}), (3, {"cutmix": 1.0})])
def test_picture_is_written_whole(tmp_path, channels, switches):
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, channels))
    figure = augment_preview.draw_batch(
        images,
        np.arange(2),
        ["apple", "bear"],
        np.full(channels, 120.0),
        np.full(channels, 60.0),
        switches,
        seed=0,
    )
    assert len(figure.axes) == 2 * (augment_preview.DRAWS + 1)
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.squeeze(images[0]), drawn, atol=1.01)
    path = tmp_path / "augment.png"
    augment_preview.save(figure, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["augment.png"]
    for wrong in (tmp_path / "missing" / "a.png", tmp_path / "a.pkl"):
        with pytest.raises(UserError, match="--out"):
            augment_preview.save(figure, wrong)
