import functools
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet import rules
from eanet.augment import mixing, pipeline, transforms
from eanet.augment.mixing import cutmix, mixup
from eanet.augment.pipeline import AUGMENTATIONS, Augmentation, augment, augmentation_rules
from eanet.errors import UserError
from eanet.prng import random_key
from eanet.rules import Number, Switch
from tests.helpers.augment_cases import EVERYTHING, EXAMPLE, jitted, make_images, make_targets
from tests.helpers.compiler import AS_FOR_USERS


@pytest.mark.slow
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
def test_everything_off_leaves_no_operation(switches):
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
        ("mix_probability", 1.5),
        ("zoom", "0.2"),
        ("flip", 2),
        ("keras3_contrast_clip", -1),
    ],
)
def test_values_out_of_range_are_named(key, value):
    with pytest.raises(UserError) as error:
        rules.check(augmentation_rules(), {key: value}, "augment.")
        pipeline.check((12, 12, 3), **{key: value})
    message = str(error.value)
    assert message.startswith(f"augment.{key}={value!r}") and "\n" not in message


def test_check_accepts_the_limits():
    limits = {"rotation": 0.5, "contrast": 1, "zoom": 0.99, "random_erasing": 1, "flip": False}
    for values in ({**EVERYTHING, "keras3_contrast_clip": True}, limits):
        rules.check(augmentation_rules(), values, "augment.")
        pipeline.check((5, 6, 1), **values)


def test_a_misspelt_name_is_no_augmentation():
    with pytest.raises(TypeError, match="rotate"):
        augment(random_key(0), make_images(), make_targets(6), rotate=0.1)


@pytest.mark.slow
def test_each_has_the_stream_that_it_always_had():
    """Of one split into nine: one for each that changes single images, then the choice."""

    @functools.partial(jax.jit, compiler_options=AS_FOR_USERS)
    def expected(key, images, targets):
        keys = jax.random.split(key, 9)
        images = transforms.random_flip(keys[0], images)
        images = transforms.random_rotation(keys[1], images, 0.1)
        images = transforms.random_contrast(keys[2], images, 0.1, keras3_contrast_clip=True)
        images = transforms.random_zoom(keys[3], images, 0.2)
        images = transforms.pad_and_crop(keys[4], images, 4)
        images = transforms.random_erasing(keys[5], images, 0.5)
        return jax.lax.cond(
            jax.random.bernoulli(keys[6]),
            lambda: mixing.mixup(keys[7], images, targets, 0.8),
            lambda: mixing.cutmix(keys[8], images, targets, 1.0),
        )

    images, targets = make_images(), make_targets(6)
    run = jitted(**EVERYTHING, keras3_contrast_clip=True)
    for key in map(random_key, range(4)):
        for one, other in zip(
            run(key, images, targets), expected(key, images, targets), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "mix", "stream"), [("mixup", mixup, 7), ("cutmix", cutmix, 8)])
def test_one_that_mixes_alone_has_the_same_stream(name, mix, stream):
    images, targets = jnp.asarray(make_images()), jnp.asarray(make_targets(6))
    key = random_key(3)
    changed = jitted(**{name: 0.7})(key, images, targets)
    alone = jax.jit(lambda key, images, targets: mix(key, images, targets, 0.7))
    expected = alone(jax.random.split(key, 9)[stream], images, targets)
    for one, other in zip(changed, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)  # of values up to 3


def test_a_seed_gives_the_images_of_the_first_version():
    images = np.arange(8 * 6 * 5 * 1, dtype=np.float32).reshape(8, 6, 5, 1)
    changed, _ = jitted(flip=True, pad_crop=2)(random_key(7), images, make_targets(8))
    digest = hashlib.sha256(np.asarray(changed).tobytes()).hexdigest()
    assert digest == "7beb7cdfb2f2e0b819a5b2b08f618a1c78e1ffaec7e404d54964c037d096d1ad"


def brighten(key, images, most):
    return images + most * jax.random.uniform(key, (len(images), 1, 1, 1))


def test_a_new_one_draws_its_own_stream_and_moves_no_other(monkeypatch):
    images, targets = jnp.asarray(make_images()), jnp.asarray(make_targets(6))
    key = random_key(0)
    without, without_targets = augment(key, images, targets, flip=True, pad_crop=2, mixup=0.5)
    shifted, _ = augment(key, images, targets, flip=True, pad_crop=2)
    monkeypatch.setitem(AUGMENTATIONS, "brighten", Augmentation(Number(0, 9), brighten))
    same, same_targets = augment(
        key, images, targets, flip=True, pad_crop=2, mixup=0.5, brighten=0.0
    )
    np.testing.assert_array_equal(same, without)
    np.testing.assert_array_equal(same_targets, without_targets)
    bright, _ = augment(key, images, targets, flip=True, pad_crop=2, brighten=2.0)
    shift = np.asarray(bright - shifted)
    assert np.ptp(shift, axis=(1, 2, 3)).max() < 1e-5 and np.ptp(shift[:, 0, 0, 0]) > 0.1
    # Another one beside it, and its place in the table, make no difference.
    monkeypatch.setitem(AUGMENTATIONS, "darken", Augmentation(Number(0, 9), brighten))
    monkeypatch.setitem(AUGMENTATIONS, "brighten", AUGMENTATIONS.pop("brighten"))
    again, _ = augment(key, images, targets, flip=True, pad_crop=2, brighten=2.0)
    np.testing.assert_array_equal(again, bright)
    other, _ = augment(key, images, targets, flip=True, pad_crop=2, darken=2.0)
    assert not np.allclose(other, bright)


def blacken(key, images, targets):
    return jnp.zeros_like(images), targets


def test_a_batch_is_mixed_with_the_given_probability_and_never_while_mild(monkeypatch):
    monkeypatch.setitem(AUGMENTATIONS, "blacken", Augmentation(Switch(), blacken, mixes=True))
    images, targets = make_images(), make_targets(6)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def run(key, mild):
        examples = jnp.asarray(images), jnp.asarray(targets)
        return augment(key, *examples, mild=mild, blacken=True, mix_probability=0.25)[0]

    keys = jax.random.split(random_key(0), 200)
    is_kept = np.any(run(keys, False), axis=(2, 3, 4))
    np.testing.assert_array_equal(is_kept, np.repeat(is_kept[:, :1], 6, axis=1))
    assert 125 < np.sum(is_kept[:, 0]) < 175
    np.testing.assert_array_equal(run(keys[:1], True)[0], images)


def test_of_three_that_mix_each_gets_a_third(monkeypatch):
    monkeypatch.setitem(AUGMENTATIONS, "blacken", Augmentation(Switch(), blacken, mixes=True))
    run = jax.jit(functools.partial(augment, mixup=1.0, cutmix=1.0, blacken=True))
    images, targets = make_images(), make_targets(6)
    black = sum(not np.any(run(random_key(seed), images, targets)[0]) for seed in range(120))
    assert 20 < black < 60
