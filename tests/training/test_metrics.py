import jax.numpy as jnp
import numpy as np

from eanet.training.metrics import in_top_k, means, zero_sums


def test_in_top_k_are_the_labels_among_the_largest_logits():
    rng = np.random.default_rng(1)
    logits = rng.integers(0, 4, (200, 6)).astype(np.float32)  # full of ties
    labels = rng.integers(0, 6, 200).astype(np.int32)
    for k in (1, 2, 5, 6, 9):
        largest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
        expected = (largest == labels[:, None]).any(1)
        actual = in_top_k(jnp.asarray(logits), jnp.asarray(labels), k)
        np.testing.assert_array_equal(actual, expected.astype(np.float32))


def test_a_label_whose_logit_is_no_number_is_not_among_them():
    logits = jnp.array([[jnp.nan, 0.0, 1.0], [jnp.nan] * 3, [0.0, 1.0, 2.0]])
    np.testing.assert_array_equal(in_top_k(logits, jnp.array([0, 0, 2]), 3), [0, 0, 1])


def test_means_divide_sums_by_examples_and_steps():
    sums = {"loss": 6.0, "accuracy": 3.0, "grad_norm": 8.0, "examples": 12.0, "steps": 4.0}
    assert means(sums) == {"loss": 0.5, "accuracy": 0.25, "grad_norm": 2.0}
    assert means(zero_sums()) == {}, "nothing was measured"
