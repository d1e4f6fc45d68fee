"""The walk in CONTRIBUTING.md, followed literally, and other attentions and norms from outside."""

import re
import sys
import types
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import testing
from eanet import rules
from eanet.errors import UserError
from eanet.models import attentions, costs
from eanet.models.attention import NORMS, ExternalAttention
from eanet.models.attention_fast import FastExternalAttention
from eanet.models.eanet import EANet
from tests.helpers import main_job, plain

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gated_mean(monkeypatch):
    """The class of the walk, in the table under its name."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]
    module = types.ModuleType("gated_mean")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    monkeypatch.setitem(attentions.ATTENTIONS, "gated_mean", {"plain": module.GatedMean})
    return module.GatedMean


def model_of(attention, **options):
    config = testing.get_config().model.to_dict() | {"attention": attention} | options
    return EANet(10, (8, 8, 1), rngs=nnx.Rngs(0), **config)


@pytest.mark.slow
def test_it_is_trained_resumed_and_evaluated(gated_mean, tmp_path, undrawn):
    config = plain.get_config()
    config.model.attention = "gated_mean"
    results = main_job.stopped_and_resumed(config, tmp_path)
    assert results["accuracy"] > 0.3


def test_its_costs_are_counted(gated_mean):
    model = model_of("gated_mean")
    row = costs.summarize(model)[1]
    tokens, width, heads = 4, 16, 16
    assert row.part == "gated_mean attention, 2 ×"
    assert row.macs == 2 * tokens * 3 * width * heads
    assert row.parameters == 2 * (3 * width * heads + 2 * width)
    # Nothing of it is saved for the gradients, so only the parameters count.
    assert costs.least_bytes(model, 100) > costs.least_bytes(model, 0) > 0


def test_it_mixes_rows_as_its_formula_says(gated_mean):
    module = gated_mean(6, num_heads=2, head_dim=3, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 5, 6))
    gate, value, out = (
        np.asarray(p[...], np.float64) for p in (module.gate, module.value, module.out)
    )
    expected = (1 / (1 + np.exp(-x @ gate)) * (x @ value).mean(1, keepdims=True)) @ out
    np.testing.assert_allclose(module(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)


def test_maps_that_there_are_not_are_refused_in_a_line(gated_mean):
    with pytest.raises(UserError, match="GatedMean has no attention maps"):
        model_of("gated_mean").attention_maps(jnp.zeros((1, 8, 8, 1)))


def test_an_option_of_its_own_reaches_it_and_no_other(gated_mean, monkeypatch):
    class Biased(gated_mean):
        RULES: ClassVar = {"gate_bias": rules.Number(-10, 10)}

        def __init__(self, *args, gate_bias=0.0, **options):
            super().__init__(*args, **options)
            self.gate_bias = gate_bias

    monkeypatch.setitem(attentions.ATTENTIONS, "biased", {"plain": Biased})
    assert model_of("biased", gate_bias=3.0).blocks.attention.gate_bias == 3.0
    assert not hasattr(model_of("external", gate_bias=3.0).blocks.attention, "gate_bias")
    with pytest.raises(UserError, match=r"model\.gate_bias=11 must be a number from -10 to 10"):
        model_of("biased", gate_bias=11)
    with pytest.raises(TypeError, match="no option 'gate_bais'"):
        model_of("biased", gate_bais=1.0)


@pytest.mark.parametrize("kind", [ExternalAttention, FastExternalAttention])
@pytest.mark.parametrize("units", [3, 12], ids=["folded", "by head"])
def test_a_new_norm_loses_no_gradient(kind, units, monkeypatch):
    """A sigmoid sees what is constant per unit: both biases before it have gradients."""
    monkeypatch.setitem(NORMS, "sigmoid", jax.nn.sigmoid)
    module = kind(6, num_heads=2, head_dim=2, memory_size=units, norm="sigmoid", rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)), jnp.float32)
    graphdef, params = nnx.split(module)

    def output(params):
        module = nnx.merge(graphdef, params)
        return module(x.transpose(2, 0, 1)).transpose(1, 2, 0) if module.columns else module(x)

    gradient = jax.grad(lambda params: jnp.sum(jnp.sin(output(params))))(params)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient))
    plain = ExternalAttention(
        6, num_heads=2, head_dim=2, memory_size=units, norm="sigmoid", rngs=nnx.Rngs(0)
    )
    np.testing.assert_allclose(output(params), plain(x), atol=1e-5)
