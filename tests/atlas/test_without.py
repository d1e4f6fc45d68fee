"""Units switched off: the same as a zero in their column of the attention, and counted in pairs."""

import numpy as np
import pytest

from eanet.atlas import without
from tests.helpers import reference

ignore = lambda _: None  # noqa: E731


def test_it_is_a_zero_in_the_column_of_attention(model, examples):
    images = examples.images[:20]
    params = reference.to_float64(model.params)
    normalized = (images.astype(np.float64) - model.mean) / model.std
    answers = without.make_answers(model)(images)
    assert answers.shape == (20, 1 + 2 * 8)
    calls = 0

    def attention(block, unit):
        def attend(params, x):
            nonlocal calls
            weights = reference.external_weights(params, x)
            if calls == block:
                weights[..., unit] = 0
            calls += 1
            read = weights @ params["value_memory"] + params["value_memory_bias"]
            return np.tensordot(read, params["out_kernel"], 2) + params["out_bias"]

        return attend

    variants = [(-1, 0)] + [(block, unit) for block in range(2) for unit in range(8)]
    for column, (block, unit) in enumerate(variants):
        calls = 0
        logits = reference.model(params, normalized, 4, attention(block, unit))
        np.testing.assert_array_equal(answers[:, column], logits.argmax(1))
    assert (answers[:, 1:] != answers[:, :1]).any()


def test_losses_are_counted_image_by_image(model, examples):
    done = []
    found = without.measure(model, examples, done.append)
    answers = without.make_answers(model)(examples.images)
    right = answers == examples.labels[:, None]
    assert done[-1] == len(examples) == found["num_examples"]
    assert found["accuracy"] == right[:, 0].mean()
    assert found["accuracy"] == (model.predict(examples.images).argmax(1) == examples.labels).mean()
    without_any = right[:, 1:].mean(0).reshape(2, 8)
    np.testing.assert_allclose(found["change"], without_any - found["accuracy"], atol=1e-12)
    difference = right[:, 1:].astype(float) - right[:, :1]
    margin = 1.96 * difference.std(0).reshape(2, 8) / np.sqrt(len(examples))
    np.testing.assert_allclose(found["margin"], margin, atol=1e-12)
    assert found["lost"].max() > 0


def test_a_unit_without_use_is_missed_by_nobody(changed, model, examples):
    bias = np.array(model.params["blocks"]["attention"]["key_memory_bias"])
    bias[1, 3] = -1e4
    found = without.measure(
        changed({"norm": "softmax_memory"}, key_memory_bias=bias), examples, ignore
    )
    assert found["lost"][1, 3] == found["won"][1, 3] == 0 == found["margin"][1, 3]


@pytest.mark.parametrize("most", [1, 7, 299, 300, 10_000])
def test_examples_are_spread_over_the_split(examples, most):
    chosen = without.spread(examples, most)
    assert len(chosen) == min(most, len(examples))
    np.testing.assert_array_equal(chosen.images[0], examples.images[0])
    if most == 7:
        np.testing.assert_array_equal(chosen.images[6], examples.images[257])
