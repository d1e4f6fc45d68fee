import jax.numpy as jnp
import numpy as np
import pytest

from eanet.training.loss import make_loss
from tests.helpers import reference
from tests.helpers.training_cases import CLASSES


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    rng = np.random.default_rng(0)
    logits = 5 * rng.normal(size=(6, CLASSES))
    targets = rng.dirichlet(np.ones(CLASSES), 6)  # as mixup makes them
    targets[0] = np.eye(CLASSES)[2]
    loss = make_loss(label_smoothing=smoothing)
    losses = loss(jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(losses, reference.cross_entropy(logits, targets, smoothing), 1e-5)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    losses = make_loss()(logits, jnp.array([[0.0, 1.0, 0.0]]))
    np.testing.assert_allclose(losses, [2e4])


def test_class_weights_count_an_example_by_its_class():
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(4, CLASSES)), rng.uniform(0, 3, CLASSES).astype(np.float32)
    targets = rng.dirichlet(np.ones(CLASSES), 4)
    targets[0] = np.eye(CLASSES)[2]
    loss = make_loss(label_smoothing=0.1, class_weights=weights)
    losses = loss(jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32))
    plain = reference.cross_entropy(logits, targets, 0.1)
    np.testing.assert_allclose(losses, plain * (targets @ weights), 1e-5)
    np.testing.assert_allclose(losses[0], plain[0] * weights[2], 1e-5)
