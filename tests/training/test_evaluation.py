from unittest import mock

import numpy as np
import optax
import pytest

from eanet import devices
from eanet.data.base import Split
from eanet.training import evaluation as evaluation_module
from eanet.training.batches import normalizer
from eanet.training.evaluation import make_evaluate
from eanet.training.loss import make_loss
from eanet.training.metrics import means
from tests.helpers import reference
from tests.helpers.training_cases import (
    BATCH,
    MEAN,
    STD,
    Linear,
    Training,
    copied,
    make_data,
    mesh_of,
    plain_gradient,
)


@pytest.fixture(scope="module")
def evaluation():
    """Of the linear model, in blocks of 16."""
    evaluate = make_evaluate(
        Linear().apply,
        make_loss(label_smoothing=0.1),
        devices.make_mesh(16),
        normalize=normalizer(MEAN, STD),
        images_at_once=8,
    )

    def in_small_blocks(*arguments):
        with mock.patch.object(evaluation_module, "_MOST_IMAGES", 16):
            return evaluate(*arguments)

    return in_small_blocks, copied(Linear().init(0))


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 31, 32, 33])
def test_evaluation_counts_every_image_exactly_once(evaluation, count):
    evaluate, params = evaluation
    data = make_data(count, seed=count)
    metrics = evaluate(params, data)
    _, loss, logits = plain_gradient(reference.to_float64(params), data.images, data.labels, 0.1)
    ranks = (-logits).argsort(1)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    for name, k in (("accuracy", 1), ("top5_accuracy", 5)):
        expected = (ranks[:, :k] == data.labels[:, None]).any(1).mean()
        assert metrics[name] == pytest.approx(expected, abs=1e-6)


def test_large_images_are_evaluated_in_smaller_blocks(evaluation, monkeypatch):
    evaluate, params = evaluation
    data, taken = make_data(21), []
    whole = evaluate(params, data)
    monkeypatch.setattr(evaluation_module, "_MOST_BYTES", 4 * data.images[0].nbytes + 1)
    put_part = devices.put_part

    def counted(part, sharding, shape):
        if len(shape) > 1:  # images, not their labels
            taken.append(len(part))
        return put_part(part, sharding, shape)

    monkeypatch.setattr(devices, "put_part", counted)
    assert evaluate(params, data) == pytest.approx(whole, rel=1e-6)
    assert taken == [4] * 6


@pytest.mark.parametrize(
    ("side", "expected"), [(32, 1024), (224, 512), (384, 256), (512, 128), (30_000, 2)]
)
def test_a_block_holds_as_many_images_as_memory_is_for(side, expected):
    assert evaluation_module.images_in_block(mesh_of(2), (side, side, 3)) == expected


def test_training_and_evaluation_see_the_same_range_of_inputs(evaluation):
    """With an augmentation that changes nothing both have one loss; a clip in one would show."""
    evaluate, params = evaluation
    training = Training(Linear(), optax.sgd(0.0), augmentation={"contrast": 1e-9})
    data, index = make_data(), np.asarray(training.order)[:BATCH]
    _, sums = training.train([1])
    metrics = evaluate(params, Split(data.images[index], data.labels[index]))
    assert metrics["loss"] == pytest.approx(means(sums)["loss"], rel=1e-5)


def test_evaluation_stops_when_asked(evaluation):
    """After one block of three; and what was counted of it is not passed off as the whole."""
    evaluate, params = evaluation
    answers = iter([False, True])
    assert evaluate(params, make_data(40), lambda: next(answers)) is None
    assert next(answers, None) is None
