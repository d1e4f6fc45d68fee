"""Types and precision of products: what an accelerator is told, and that bfloat16 needs no more."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from configs import testing
from eanet import config as config_lib
from eanet import precision
from eanet.training.run import build_model, set_up

CLASSES, BATCH, SHAPE = 10, 128, (8, 8, 1)


def products(matmul_precision):
    """What the products of a training step say of their precision, the optimizer's too."""
    plain = {f"augment.{name}": 0.0 for name in ("rotation", "zoom", "mixup")}
    changes = {"matmul_precision": matmul_precision, "optimizer.name": "muon", **plain}
    run = set_up(config_lib.override(testing.get_config(), changes), print)
    text = run.lower_train_steps(run.abstract_state()).as_text()
    return re.findall(r"dot_general .*?precision = \[(\w+), \w+\]", text)


@pytest.mark.parametrize(("name", "told"), [("", "DEFAULT"), ("tensorfloat32", "HIGH")])
def test_every_product_of_a_step_has_the_precision_of_the_config(name, told):
    found = products(name)
    assert len(found) > 40 and set(found) == {told}


def test_a_precision_without_effect_is_said_and_not_recorded(monkeypatch):
    assert precision.without_effect("", "bfloat16") == ""
    assert "no effect on a CPU" in precision.without_effect("highest", "float32")
    assert precision.in_force("tensorfloat32") == "float32"
    monkeypatch.setattr(precision, "platform", lambda: "gpu")
    assert precision.without_effect("highest", "float32") == ""
    assert "model.dtype=bfloat16" in precision.without_effect("highest", "bfloat16")
    assert precision.in_force("tensorfloat32") == "tensorfloat32"
    assert precision.in_force("") == "default"


def loss_of(dtype):
    """Of random images and labels: `loss(scale, params, images)`, and the parameters."""
    config = config_lib.override(testing.get_config(), {"model.dtype": dtype})
    model = build_model(config, CLASSES, SHAPE)
    labels = np.random.default_rng(1).integers(0, CLASSES, BATCH)

    def loss(scale, params, images):
        log = jax.nn.log_softmax(model.apply(params, images))
        return -scale * jnp.mean(log[np.arange(BATCH), labels])

    return loss, model.init(0)


IMAGES = np.random.default_rng(0).normal(size=(BATCH, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize(("dtype", "same"), [("bfloat16", True), ("float16", False)])
def test_scaling_the_loss_changes_no_bit_of_a_gradient_in_bfloat16(dtype, same):
    """A power of two only moves the exponent, unless something underflows where it is left out."""
    loss, params = loss_of(dtype)
    gradient = jax.jit(jax.grad(loss, argnums=1))
    plain, scaled = (gradient(np.float32(scale), params, IMAGES) for scale in (1, 2**10))
    pairs = zip(*map(jax.tree.leaves, (plain, scaled)), strict=True)
    equal = np.concatenate([np.ravel(one == other / 2**10) for one, other in pairs])
    assert equal.all() if same else equal.mean() < 0.7


def test_gradients_underflow_in_float16_and_not_in_bfloat16():
    """How many of the images' gradients in float32 are no normal number of the narrower type.

    As large as in a batch of 1,024.
    """
    loss, params = loss_of("float32")
    scale = np.float32(BATCH / 1024)
    gradient = np.asarray(jax.jit(jax.grad(loss, argnums=2))(scale, params, IMAGES))
    found = {
        dtype: np.mean(np.abs(gradient) < float(ml_dtypes.finfo(dtype).tiny))
        for dtype in ("bfloat16", "float16")
    }
    assert found["bfloat16"] == 0 and found["float16"] > 0.2, found


def test_every_product_over_tokens_takes_bfloat16():
    """Forwards and backwards; what is formed of the parameters alone is float32, as they are."""
    loss, params = loss_of("bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    traced = jax.make_jaxpr(jax.grad(loss, argnums=1))(np.float32(1), params, IMAGES)
    taken = [
        {operand.aval.dtype.name for operand in equation.invars}
        for equation in equations(traced.jaxpr)
        if equation.primitive.name == "dot_general"
        and any(BATCH * 4 in operand.aval.shape for operand in equation.invars)
    ]
    assert len(taken) >= 12 and all(dtypes == {"bfloat16"} for dtypes in taken)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)
