import itertools

import jax
import jax.numpy as jnp
import numpy as np

from eanet.training.batches import epoch_order, make_prepare, normalizer
from tests.helpers.training_cases import (
    BATCH,
    CLASSES,
    COUNT,
    MEAN,
    SHAPE,
    STD,
    make_data,
    normalized,
)


def test_normalizer():
    images = make_data().images
    result = normalizer(MEAN, STD)(jnp.asarray(images))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, normalized(images), atol=1e-5)


def test_every_example_comes_once_an_epoch_and_none_is_lost_between_epochs():
    orders = [np.asarray(epoch_order(3, epoch, COUNT, BATCH)) for epoch in range(4)]
    for order, following in itertools.pairwise(orders):
        assert order.shape == (COUNT + BATCH,)
        np.testing.assert_array_equal(np.sort(order[:COUNT]), np.arange(COUNT))
        np.testing.assert_array_equal(order[COUNT:], following[:BATCH])


def test_the_order_is_a_function_of_seed_and_epoch():
    def first(seed, epoch):
        return tuple(np.asarray(epoch_order(seed, epoch, COUNT, BATCH))[:COUNT])

    assert first(0, 0) == first(0, 0)
    assert len({first(seed, epoch) for seed in (0, 1, 2**31 + 1) for epoch in (0, 1, 2)}) == 9


def test_from_a_step_on_augmentation_is_mild():
    data = make_data(4)

    def prepare(mild_from=None, **augmentation):
        made = make_prepare(
            num_classes=CLASSES,
            normalize=normalizer(MEAN, STD),
            augmentation=augmentation,
            random_bits="counter",
            mild_from=mild_from,
        )
        run = jax.jit(made)
        return lambda step: run(np.uint32(0), step, data.images, data.labels)[0]

    weak, strong = {"contrast": 0.5}, {"random_erasing": 1.0}
    prepared = prepare(mild_from=3, **weak, **strong)
    without, always = prepare(**weak), prepare(**weak, **strong)
    for step, expected in ((2, always), (3, without), (7, without)):
        np.testing.assert_allclose(prepared(step), expected(step), atol=1e-5)
    assert not np.array_equal(without(2), always(2))


def test_what_a_step_takes_is_a_function_of_seed_and_step():
    """Whether seed and step are numbers of the program or its arguments makes no difference."""
    prepare = make_prepare(
        num_classes=CLASSES,
        normalize=normalizer(MEAN, STD),
        augmentation={"contrast": 0.5},
        random_bits="counter",
    )
    data = make_data(4)

    def prepared(seed, step):
        images, targets, keys = jax.jit(prepare)(np.uint32(seed), step, data.images, data.labels)
        assert images.shape == (4, *SHAPE) and targets.shape == (4, CLASSES)
        np.testing.assert_array_equal(np.argmax(targets, 1), data.labels)
        return np.asarray(images).tobytes(), np.asarray(jax.random.key_data(keys)).tobytes()

    assert prepared(0, 3) == prepared(0, 3)
    for other in (prepared(1, 3), prepared(0, 4), prepared(2**32 - 1, 3)):
        assert other[0] != prepared(0, 3)[0] and other[1] != prepared(0, 3)[1]
