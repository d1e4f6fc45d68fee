"""Against scikit-learn and plain loops in float64, and properties that hold for any logits."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_score,
    top_k_accuracy_score,
)

from eanet.inference import measures

CLASSES = 7


def logits_and_labels(count=400, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES - 1, count, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])  # the last has none
    logits = rng.normal(size=(count, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
    return (scale * logits).astype(np.float32), labels.astype(np.int32)


def expected_calibration_error(probabilities, labels):
    """As the paper writes it, an image at a time."""
    bins = [[] for _ in range(15)]
    for row, label in zip(probabilities, labels, strict=True):
        confidence = row.max()
        which = next(k for k in range(15) if confidence <= (k + 1) / 15)
        bins[which].append((row.argmax() == label, confidence))
    error = 0.0
    for members in filter(None, bins):
        correct, confidence = np.mean(members, axis=0)
        error += len(members) / len(labels) * abs(correct - confidence)
    return error


def test_the_numbers_are_those_of_the_references():
    logits, labels = logits_and_labels()
    probabilities = softmax(logits.astype(np.float64), axis=1)
    predictions = logits.argmax(1)
    answers = measures.answers(logits, labels)
    by_class = measures.by_class(answers, CLASSES)
    every = np.arange(CLASSES)
    assert answers.correct.mean() == accuracy_score(labels, predictions)
    assert (answers.label_ranks <= 5).mean() == top_k_accuracy_score(
        labels, logits, k=5, labels=every
    )
    assert measures.nll(answers) == pytest.approx(log_loss(labels, probabilities, labels=every))
    np.testing.assert_array_equal(
        by_class.confusion, confusion_matrix(labels, predictions, labels=every)
    )
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = balanced_accuracy_score(labels, predictions)
    assert by_class.balanced_accuracy == pytest.approx(balanced, abs=1e-12)
    precision = precision_score(
        labels, predictions, labels=every, average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(by_class.precision, precision)
    error = measures.reliability(answers).error
    assert error == pytest.approx(expected_calibration_error(probabilities, labels), abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    confidences = np.array([1 / 15, 3 / 15, 1.0])
    answers = measures.Answers(np.zeros(3), np.zeros(3), confidences, np.zeros(3), np.ones(3))
    found = measures.reliability(answers)
    assert np.flatnonzero(found.images).tolist() == [0, 2, 14]
    assert found.error == pytest.approx(np.mean(1 - confidences))


@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
def test_the_temperature_has_the_least_loss(scale):
    logits, labels = logits_and_labels(scale=scale)
    found = measures.fit_temperature(logits, labels)

    def loss(temperature):
        scaled = log_softmax(logits.astype(np.float64) / temperature, axis=1)
        return -scaled[np.arange(len(labels)), labels].mean()

    grid = np.geomspace(found / 3, found * 3, 1001)
    assert found == pytest.approx(grid[np.argmin([loss(each) for each in grid])], rel=3e-3)
    step = 1e-4 * found
    assert abs(loss(found + step) - loss(found - step)) / (2 * step) * found < 1e-7
    assert measures.nll(measures.answers(logits, labels, found)) == pytest.approx(loss(found))


def test_no_temperature_where_none_is_best():
    logits, labels = logits_and_labels()
    always_right, always_wrong = np.eye(CLASSES)[labels], -np.eye(CLASSES)[labels]
    assert measures.fit_temperature(always_right.astype(np.float32), labels) is None
    assert measures.fit_temperature(always_wrong.astype(np.float32), labels) is None
    logits[3, 2] = np.nan
    assert measures.fit_temperature(logits, labels) is None


def test_what_changes_nothing():
    logits, labels = logits_and_labels()
    answers = measures.answers(logits, labels)
    hot = measures.answers(logits, labels, 4.0)
    np.testing.assert_array_equal(hot.predictions, answers.predictions)
    np.testing.assert_array_equal(hot.label_ranks, answers.label_ranks)
    assert hot.confidences.mean() < answers.confidences.mean()
    by_class = measures.by_class(answers, CLASSES)
    np.testing.assert_array_equal(by_class.confusion.sum(1), np.bincount(labels, minlength=CLASSES))
    order = np.random.default_rng(1).permutation(len(labels))
    other = measures.answers(logits[order], labels[order])
    assert measures.nll(other) == pytest.approx(measures.nll(answers), rel=1e-12)
    assert measures.reliability(other).error == pytest.approx(
        measures.reliability(answers).error, rel=1e-12
    )
    np.testing.assert_array_equal(measures.by_class(other, CLASSES).confusion, by_class.confusion)


def test_of_equal_logits_the_lower_class_is_predicted():
    labels = np.arange(3)
    answers = measures.answers(np.zeros((3, 3), np.float32), labels)
    assert answers.predictions.tolist() == [0, 0, 0] and answers.label_ranks.tolist() == [1, 2, 3]


def test_certainty_has_a_finite_loss():
    logits = np.array([[0, 5000], [5000, 0]], np.float32)
    answers = measures.answers(logits, np.array([0, 0]))
    assert measures.nll(answers) == 2500 and answers.confidences.tolist() == [1, 1]
