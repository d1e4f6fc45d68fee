"""`import eanet`, as other programs use it."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import eanet

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", eanet.__all__)
def test_what_is_named_is_there(name):
    assert getattr(eanet, name) is not None and name in dir(eanet)


def test_what_is_not_named_is_not():
    with pytest.raises(AttributeError, match="'eanet' has no attribute 'Transformer'"):
        eanet.Transformer  # noqa: B018


def test_the_package_alone_imports_almost_nothing():
    script = (
        "import sys; before = set(sys.modules); import eanet; from eanet import sweep;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"jax", "numpy", "flax", "optax", "orbax", "absl", "ml_collections"}
    assert not heavy & set(done.stdout.split())


def test_external_attention_maps_rows_to_rows():
    attention = eanet.ExternalAttention(6, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 6)), jnp.float32)
    assert attention(rows).shape == (3, 5, 6)
    # An image is a function of its own tokens alone.
    np.testing.assert_allclose(attention(rows[1:2])[0], attention(rows)[1], atol=1e-6)


def test_a_model_can_be_made_without_a_run():
    model = eanet.EANet(7, (8, 8, 3), depth=1, num_heads=2, rngs=nnx.Rngs(0))
    assert model(jnp.zeros((2, 8, 8, 3))).shape == (2, 7)
