"""What a model's answers are worth: pure functions of logits and labels, in float64.

docs/evaluation.md defines every number and names its source.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BINS = 15  # of confidence, as in Guo et al. 2017

_COLDEST, _HOTTEST = 0.01, 100.0  # temperatures


class Answers(NamedTuple):
    """The answers of a model to N images."""

    labels: Int[np.ndarray, "n"]
    predictions: Int[np.ndarray, "n"]  # the classes of the largest logits; of equal ones the lower
    confidences: Float[np.ndarray, "n"]  # the probabilities of these
    label_log_probabilities: Float[np.ndarray, "n"]  # natural logarithms of those of the labels
    label_ranks: Int[np.ndarray, "n"]  # 1 where the label is predicted, at most 5 in the top five

    @property
    def correct(self) -> np.ndarray:
        """Which predictions are the label."""
        return self.predictions == self.labels


class Reliability(NamedTuple):
    """Predictions by their confidence, in bins `(k/15, (k+1)/15]`; NaN where a bin is empty."""

    images: Int[np.ndarray, "bins"]  # how many
    confidence: Float[np.ndarray, "bins"]  # on average
    accuracy: Float[np.ndarray, "bins"]

    @property
    def error(self) -> float:
        """The expected calibration error: |accuracy − confidence|, averaged over the images."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(self.images * gaps) / self.images.sum())


def answers(
    logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, "n"], temperature: float = 1.0
) -> Answers:
    """The answers that logits stand for, with the probabilities `softmax(logits / temperature)`."""
    from scipy.special import logsumexp

    own = np.take_along_axis(logits, labels[:, None], axis=1)
    lower = np.arange(logits.shape[1]) < labels[:, None]
    ranks = 1 + ((logits > own) | ((logits == own) & lower)).sum(axis=1)
    scaled = logits / np.float64(temperature)
    predictions, total = logits.argmax(axis=1), logsumexp(scaled, axis=1)
    rows = np.arange(len(labels))
    return Answers(
        labels=labels,
        predictions=predictions,
        confidences=np.exp(scaled[rows, predictions] - total),
        label_log_probabilities=scaled[rows, labels] - total,
        label_ranks=ranks,
    )


def nll(answers: Answers) -> float:
    """The mean negative logarithm of the label's probability, in nats."""
    return float(-answers.label_log_probabilities.mean())


def reliability(answers: Answers) -> Reliability:
    """Accuracy and mean confidence by bins of confidence."""
    edges = np.arange(1, BINS) / BINS
    which = np.digitize(answers.confidences, edges, right=True)
    images = np.bincount(which, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence, accuracy = (
            np.bincount(which, weights=values, minlength=BINS) / images
            for values in (answers.confidences, answers.correct)
        )
    return Reliability(images, confidence, accuracy)


def fit_temperature(
    logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, "n"]
) -> float | None:
    """The temperature whose probabilities have the least `nll`; None where none from 0.01 to 100.

    The loss is convex in `1 / temperature`; its derivative there is the mean over the images of
    (mean logit under the probabilities − logit of the label), and the temperature its only root.
    """
    from scipy.optimize import brentq
    from scipy.special import softmax

    below = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    own = np.take_along_axis(below, labels[:, None], axis=1).mean()

    def slope(inverse: float) -> float:
        return float((softmax(inverse * below, axis=1) * below).sum(axis=1).mean() - own)

    if not slope(1 / _HOTTEST) < 0 < slope(1 / _COLDEST):
        return None
    return float(1 / brentq(slope, 1 / _HOTTEST, 1 / _COLDEST))


class ByClass(NamedTuple):
    """How each class fares; NaN where there is nothing to divide by."""

    confusion: Int[np.ndarray, "classes classes"]  # images by label (row) and prediction
    images: Int[np.ndarray, "classes"]  # how many have this label
    accuracy: Float[np.ndarray, "classes"]  # correct among these
    precision: Float[np.ndarray, "classes"]  # correct among the predictions of this class

    @property
    def balanced_accuracy(self) -> float:
        """The mean accuracy of the classes that occur."""
        return float(np.nanmean(self.accuracy))


def by_class(answers: Answers, classes: int) -> ByClass:
    """Confusion matrix, accuracy and precision of the classes."""
    # Counted here: to import scikit-learn takes half a second, in every run of a sweep.
    cells = classes * answers.labels.astype(np.int64) + answers.predictions
    confusion = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    images, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return ByClass(
            confusion, images, confusion.diagonal() / images, confusion.diagonal() / predicted
        )
