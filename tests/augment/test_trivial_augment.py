import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from eanet.augment import pipeline, trivial_augment
from eanet.augment.pipeline import augment_pixels
from eanet.augment.trivial_augment import OPERATIONS, operate
from eanet.errors import UserError
from eanet.prng import random_key

operate = jax.jit(operate)


def with_pillow(image, name, level):
    """As torchvision's `TrivialAugmentWide` does it, by Pillow alone."""
    image, part = Image.fromarray(np.squeeze(image)), level / 30
    sheared = image.size, Image.Transform.AFFINE
    change = {
        "identity": lambda: image,
        "shear_x": lambda: image.transform(*sheared, (1, 0.99 * part, 0, 0, 1, 0)),
        "shear_y": lambda: image.transform(*sheared, (1, 0, 0, 0.99 * part, 1, 0)),
        "translate_x": lambda: image.transform(*sheared, (1, 0, -int(32 * part), 0, 1, 0)),
        "translate_y": lambda: image.transform(*sheared, (1, 0, 0, 0, 1, -int(32 * part))),
        "rotate": lambda: image.rotate(135 * part),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(1 + 0.99 * part),
        "color": lambda: ImageEnhance.Color(image).enhance(1 + 0.99 * part),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(1 + 0.99 * part),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1 + 0.99 * part),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(6 * abs(part))),
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
def test_every_operation_at_every_level_equals_pillow(shape):
    operations, levels = map(np.ravel, np.mgrid[: len(OPERATIONS), -30:31])
    images = photos(len(levels), shape)
    images[levels == 7] = 90  # of one colour alone
    changed = np.asarray(operate(images, operations, levels))
    assert changed.dtype == np.uint8
    names = [OPERATIONS[index] for index in operations]
    expected = np.reshape(list(map(with_pillow, images, names, levels)), changed.shape)
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
    monkeypatch.setattr(trivial_augment, "operate", lambda *given: drawn.extend(given) or given[0])
    trivial_augment.trivial_augment(random_key(0), jnp.zeros((14_000, 1, 1, 3), jnp.uint8))
    _, operations, levels = map(np.asarray, drawn)
    counts = np.bincount(operations, minlength=len(OPERATIONS))
    assert len(counts) == 14 and counts.min() > 850 and counts.max() < 1150
    counts = np.bincount(np.abs(levels), minlength=31)
    assert len(counts) == 31 and counts.min() > 350 and counts.max() < 560
    assert abs(np.mean(np.sign(levels))) < 0.03
    assert abs(np.corrcoef(operations, levels)[0, 1]) < 0.03


def test_pixels_are_changed_unless_augmentation_is_mild():
    images = jnp.asarray(photos(16, (8, 8, 3)))
    run = jax.jit(
        lambda mild: augment_pixels(random_key(1), images, mild=mild, trivial_augment=True)
    )
    changed = np.any(run(jnp.array(False)) != images, axis=(1, 2, 3))
    assert np.sum(changed) > 8
    np.testing.assert_array_equal(run(jnp.array(True)), images)


def test_images_of_other_channels_are_refused():
    pipeline.check((8, 8, 3), trivial_augment=True)
    with pytest.raises(UserError, match=r"augment\.trivial_augment is for .* 3 channels, not 4"):
        pipeline.check((8, 8, 4), trivial_augment=True)
