import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.models.eanet import EANet
from eanet.models.functional import split_model
from eanet.training import step as step_lib
from eanet.training.batches import make_prepare, normalizer
from eanet.training.diagnostics import first_not_finite, make_examine
from eanet.training.loss import make_loss
from eanet.training.optimizer import OptimizerOptions, make_optimizer
from tests.helpers.training_cases import BATCH, CLASSES, MEAN, SHAPE, STD, make_data


@pytest.fixture(scope="module")
def model():
    return split_model(
        lambda rngs: EANet(
            CLASSES, SHAPE, patch_size=2, depth=2, embed_dim=8, num_heads=2, head_dim=4,
            memory_size=4, mlp_dim=8, final_norm=True, rngs=rngs,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def state(model):
    optimizer = make_optimizer(OptimizerOptions("sgd"), lambda step: 0.1, model.kernels)
    return step_lib.init_state(jax.jit(model.init)(0), optimizer, ema=False)


@pytest.fixture(scope="module")
def examine(model):
    prepare = make_prepare(
        num_classes=CLASSES,
        normalize=normalizer(MEAN, STD),
        augmentation={"contrast": 0.2},
        random_bits="counter",
    )
    run = make_examine(model, make_loss(label_smoothing=0.1), prepare, BATCH)
    data = make_data(BATCH)
    return lambda state: run(state, np.uint32(0), data.images, data.labels)


STAGES = ["patch_embed", "blocks/0", "blocks/1", "final_norm", "head", "loss"]


@pytest.mark.slow
def test_every_stage_is_there_in_order(examine, state):
    found = examine(state)
    assert list(found) == STAGES
    for name in STAGES[:-1]:
        values = found[name]
        assert 0 < values["activation_rms"] <= values["activation_max"]
        assert values["gradient_norm"] > 0
    # A layer norm's output has variance one.
    assert found["final_norm"]["activation_rms"] == pytest.approx(1.0, abs=0.01)
    assert first_not_finite(found) == "only in the compiled step"


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("patch_embed", "projection", "bias"), "the output of patch_embed"),
        (("blocks", "mlp", "out", "bias"), "the output of blocks/1"),
        (("head", "bias"), "the output of head"),
    ],
)
def test_the_first_that_is_not_finite_is_named(examine, state, path, where):
    params = jax.tree.map(lambda leaf: leaf, state.params)
    node = params
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = node[path[-1]].at[-1].set(jnp.inf)  # of the blocks, the last one's
    found = examine(dataclasses.replace(state, params=params))
    assert first_not_finite(found) == where


def test_a_gradient_alone_is_named_backwards():
    finite = {"activation_max": 1.0, "gradient_norm": 1.0}
    broken = finite | {"gradient_norm": np.inf}
    found = {"patch_embed": broken, "blocks/0": broken, "head": finite, "loss": finite}
    assert first_not_finite(found) == "the gradient of blocks/0"
