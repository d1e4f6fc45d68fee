import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from eanet.augment import pipeline, policies
from eanet.augment.operations import OPERATIONS, operate
from eanet.augment.pipeline import augment_pixels
from eanet.errors import UserError
from eanet.prng import random_key

WIDE = {"shear": 0.99, "across": 32, "down": 32, "degrees": 135, "colour": 0.99, "bits": 6}


def rand_augment_ranges(height, width):
    sides = {"across": 150 / 331 * width, "down": 150 / 331 * height}
    return {"shear": 0.3, **sides, "degrees": 30, "colour": 0.9, "bits": 4}


def with_pillow(image, name, level, shear, across, down, degrees, colour, bits):
    """As torchvision does it with such ranges, by Pillow alone."""
    image, part = Image.fromarray(np.squeeze(image)), level / 30
    sheared, factor = (image.size, Image.Transform.AFFINE), 1 + colour * part
    change = {
        "identity": lambda: image,
        "shear_x": lambda: image.transform(*sheared, (1, shear * part, 0, 0, 1, 0)),
        "shear_y": lambda: image.transform(*sheared, (1, 0, 0, shear * part, 1, 0)),
        "translate_x": lambda: image.transform(*sheared, (1, 0, -int(across * part), 0, 1, 0)),
        "translate_y": lambda: image.transform(*sheared, (1, 0, 0, 0, 1, -int(down * part))),
        "rotate": lambda: image.rotate(degrees * part),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(bits * abs(part))),
        "solarize": lambda: ImageOps.solarize(image, 255 - 255 * abs(part)),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }
    return np.asarray(change[name]())


def photos(count, shape):
    """Smooth images with a little noise, each within a range of its own."""
    height, width, channels = shape
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, channels), dtype=np.uint8)
    large = [
        np.asarray(Image.fromarray(np.squeeze(image)).resize((width, height), Image.BICUBIC))
        for image in coarse
    ]
    images = np.reshape(large, (count, *shape)) + rng.normal(0, 8, (count, *shape))
    low, high = rng.uniform(0, 60, (count, 1, 1, 1)), rng.uniform(120, 256, (count, 1, 1, 1))
    return np.uint8(np.clip(low + images / 255 * (high - low), 0, 255))


@pytest.mark.parametrize("shape", [(32, 32, 3), (9, 14, 1)])
@pytest.mark.parametrize("policy", ["trivial_augment", "rand_augment"])
def test_every_operation_at_every_level_equals_pillow(policy, shape):
    space, ranges = policies.wide_space(), WIDE
    if policy == "rand_augment":
        space = policies.rand_augment_space(*shape[:2])
        ranges = rand_augment_ranges(*shape[:2])
    operations, levels = map(np.ravel, np.mgrid[: len(OPERATIONS), -30:31])
    images = photos(len(levels), shape)
    images[levels == 7] = 90  # of one colour alone
    run = jax.jit(lambda *examples: operate(*examples, space))
    changed = np.asarray(run(images, operations, levels))
    assert changed.dtype == np.uint8
    names = [OPERATIONS[index] for index in operations]
    theirs = [with_pillow(*one, **ranges) for one in zip(images, names, levels, strict=True)]
    expected = np.reshape(theirs, changed.shape)
    for index, name in enumerate(OPERATIONS):
        ours, theirs = (x[operations == index].astype(int) for x in (changed, expected))
        if name in ("brightness", "color", "contrast", "sharpness", "autocontrast"):
            # Fractions are cut off: the last digit of a product may decide.
            assert np.abs(ours - theirs).max() <= 1, name
            assert np.mean(ours != theirs) < 0.01, name
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_operations_levels_and_signs_are_equally_likely(monkeypatch):
    drawn = []
    monkeypatch.setattr(policies, "operate", lambda *given: drawn.extend(given) or given[0])
    policies.trivial_augment(random_key(0), jnp.zeros((14_000, 1, 1, 3), jnp.uint8))
    operations, levels = map(np.asarray, drawn[1:3])
    counts = np.bincount(operations, minlength=len(OPERATIONS))
    assert len(counts) == 14 and counts.min() > 850 and counts.max() < 1150
    counts = np.bincount(np.abs(levels), minlength=31)
    assert len(counts) == 31 and counts.min() > 350 and counts.max() < 560
    assert abs(np.mean(np.sign(levels))) < 0.03
    assert abs(np.corrcoef(operations, levels)[0, 1]) < 0.03


def test_rand_augment_draws_two_operations_of_one_level_and_a_sign_for_each(monkeypatch):
    drawn = []

    def count(images, operations, levels, _):
        drawn.append((np.asarray(operations), np.asarray(levels)))
        return images + jnp.uint8(1)

    monkeypatch.setattr(policies, "operate", count)
    images = policies.rand_augment(random_key(0), jnp.zeros((14_000, 1, 1, 3), jnp.uint8), 9)
    np.testing.assert_array_equal(images, 2)
    (first, first_levels), (second, second_levels) = drawn
    pairs = np.bincount(14 * first + second, minlength=14**2)  # with replacement, in any order
    assert len(pairs) == 14**2 and pairs.min() > 35 and pairs.max() < 115
    for operations, levels in drawn:
        assert set(levels) == {-9, 9} and abs(np.mean(levels)) < 0.3
        assert abs(np.corrcoef(operations, levels)[0, 1]) < 0.03
    assert abs(np.corrcoef(first_levels, second_levels)[0, 1]) < 0.03


@pytest.mark.parametrize("policy", [{"trivial_augment": True}, {"rand_augment": 9}])
def test_pixels_are_changed_unless_augmentation_is_mild(policy):
    images = jnp.asarray(photos(16, (8, 8, 3)))
    run = jax.jit(lambda mild: augment_pixels(random_key(1), images, mild=mild, **policy))
    changed = np.any(run(jnp.array(False)) != images, axis=(1, 2, 3))
    assert np.sum(changed) > 8
    np.testing.assert_array_equal(run(jnp.array(True)), images)


@pytest.mark.parametrize("policy", [{"trivial_augment": True}, {"rand_augment": 9}])
def test_images_of_other_channels_are_refused(policy):
    (name,) = policy
    pipeline.check((8, 8, 3), **policy)
    with pytest.raises(UserError, match=rf"augment\.{name} is for .* 3 channels, not 4"):
        pipeline.check((8, 8, 4), **policy)
