import jax.numpy as jnp
import numpy as np
import pytest

from eanet.training.metrics import cross_entropy, hits, means
from eanet.training.step import zero_sums
from tests.helpers import reference
from tests.helpers.training_cases import CLASSES


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    rng = np.random.default_rng(0)
    logits = 5 * rng.normal(size=(6, CLASSES))
    targets = rng.dirichlet(np.ones(CLASSES), 6)  # as mixup makes them
    targets[0] = np.eye(CLASSES)[2]
    losses = cross_entropy(
        jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32), smoothing
    )
    np.testing.assert_allclose(losses, reference.cross_entropy(logits, targets, smoothing), 1e-5)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    losses = cross_entropy(logits, jnp.array([[0.0, 1.0, 0.0]]), 0.0)
    np.testing.assert_allclose(losses, [2e4])


def test_hits_are_the_labels_among_the_largest_logits():
    rng = np.random.default_rng(1)
    logits = rng.integers(0, 4, (200, 6)).astype(np.float32)  # full of ties
    labels = rng.integers(0, 6, 200).astype(np.int32)
    for k in (1, 2, 5, 6, 9):
        largest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        expected = (largest == labels[:, None]).any(1)
        actual = hits(jnp.asarray(logits), jnp.asarray(labels), k)
        np.testing.assert_array_equal(actual, expected.astype(np.float32))


def test_a_label_whose_logit_is_no_number_is_no_hit():
    logits = jnp.array([[jnp.nan, 0.0, 1.0], [jnp.nan] * 3, [0.0, 1.0, 2.0]])
    np.testing.assert_array_equal(hits(logits, jnp.array([0, 0, 2]), 3), [0, 0, 1])


def test_means_divide_sums_by_examples_and_steps():
    sums = {"loss": 6.0, "accuracy": 3.0, "grad_norm": 8.0, "examples": 12.0, "steps": 4.0}
    assert means(sums) == {"loss": 0.5, "accuracy": 0.25, "grad_norm": 2.0}
    assert set(means(zero_sums()).values()) == {0.0}
