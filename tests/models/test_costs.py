import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from benchmarks.contestant import random_images
from benchmarks.ours import dataset_of
from configs.eanet_cifar100 import get_config
from eanet.data.load import Split
from eanet.models import costs
from eanet.models.eanet import EANet
from eanet.training import run as run_lib

# Both orders of the products of external attention, and the baseline.
MODELS = {
    "folded": {"num_heads": 4, "head_dim": 16, "memory_size": 16},
    "unfolded": {"num_heads": 4, "head_dim": 8, "memory_size": 64},
    "self": {"attention": "self", "num_heads": 2, "head_dim": 24},
    "convolutions": {"stem": "convolutions", "patch_size": 4},
    "none": {"attention": "none", "residual_scale": 0.1, "pooling": "attention"},
}
SHAPE = (4, 6, 1)
SIZES = {
    "patch_size": 2,
    "embed_dim": 3,
    "depth": 2,
    "num_heads": 5,
    "head_dim": 4,
    "memory_size": 7,
    "mlp_dim": 6,
    "param_dtype": "float32",
}


def build(name, embed_dim=64, mlp_dim=96, depth=2):
    return nnx.eval_shape(
        lambda: EANet(
            10,
            (16, 24, 3),
            depth=depth,
            embed_dim=embed_dim,
            mlp_dim=mlp_dim,
            final_norm=name == "self",
            rngs=nnx.Rngs(0),
            **MODELS[name],
        )
    )


def forward(model, batch):
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((batch, *model.patch_embed.image_shape), jnp.float32)
    return lambda state, images: nnx.merge(graphdef, state)(images), (state, images)


def products(jaxpr):
    """Multiply-adds of all matrix products of a program, inner ones too."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            count = equation.outvars[0].aval.size
            for axis in contracted:
                count *= equation.invars[0].aval.shape[axis]
            total += count
        for inner in jaxprs_in_params(equation.params):
            total += products(inner) * equation.params.get("length", 1)  # of a scan
    return total


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_model(name):
    model = build(name)
    parameters, _ = costs.totals(costs.summarize(model))
    assert parameters == costs.count_parameters(model)
    assert parameters == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert parameters == costs.count_parameters(nnx.to_pure_dict(nnx.state(model)))


@pytest.mark.parametrize("name", MODELS)
def test_multiply_adds_are_those_of_the_program(name):
    """Exactly: what one image more adds; folding the kernels does not depend on the batch."""
    model = build(name)
    if name in ("folded", "unfolded"):
        assert model.blocks.attention.folded == (name == "folded")
    one, two = (
        products(jax.make_jaxpr(function)(*arguments).jaxpr)
        for function, arguments in (forward(model, 1), forward(model, 2))
    )
    _, multiply_adds = costs.totals(costs.summarize(model))
    assert two - one == multiply_adds


@pytest.mark.parametrize("name", MODELS)
def test_multiply_adds_are_half_of_the_operations_that_xla_counts(name):
    """But for what is no product: norms, softmax, GELU, sums; little of a wide model.

    One block, since XLA counts the body of a loop once.
    """
    model = build(name, embed_dim=512, mlp_dim=1024, depth=1)
    one, two = (
        jax.jit(function).lower(*arguments).cost_analysis()["flops"]
        for function, arguments in (forward(model, 1), forward(model, 2))
    )
    _, multiply_adds = costs.totals(costs.summarize(model))
    assert 1.0 <= (two - one) / (2 * multiply_adds) < 1.06


def test_what_mixing_neighbours_costs():
    model = nnx.eval_shape(
        lambda: EANet(10, (8, 12, 3), local_mixing=True, depth=3, rngs=nnx.Rngs(0))
    )
    row = costs.summarize(model)[1]
    assert row == ("local mixing, 3 ×", (24, 64), 3 * 64 * 10, 3 * 24 * 64 * 9)


def test_the_table_of_the_example():
    model = nnx.eval_shape(lambda: EANet(100, (32, 32, 3), rngs=nnx.Rngs(0)))
    rows = costs.summarize(model)
    assert [row[0] for row in rows] == [
        "patch embedding",
        "external attention, 8 ×",
        "MLP, 8 ×",
        "head",
    ]
    assert [row[1] for row in rows] == [(256, 64), (256, 64), (256, 64), (100,)]
    parameters, multiply_adds = costs.totals(rows)
    assert parameters == 361_380
    # Attention and MLP of each block, the patches and the head.
    assert multiply_adds == 8 * 256 * (2 * 16 * 64 * 16 + 2 * 64 * 64) + 256 * 12 * 64 + 64 * 100


@pytest.mark.parametrize("attention", ["external", "self"])
def test_the_least_is_no_more_than_what_a_model_holds(attention):
    options = SIZES | {"attention": attention}
    model = nnx.eval_shape(lambda: EANet(3, SHAPE, **options, rngs=nnx.Rngs(0)))
    assert 0 < costs.least_bytes(model, 0) <= 3 * 4 * costs.count_parameters(model)


@pytest.mark.parametrize(
    "changes, training, evaluation",
    [
        ({}, 4, 4),
        ({"depth": 32}, 1, 4),
        ({"memory_size": 64}, 2, 2),
        ({"patch_size": 4}, 16, 16),
        ({"attention": "self"}, 1, 1),
        ({"attention": "self", "num_heads": 4}, 2, 2),
    ],
)
def test_as_many_images_as_fit_the_caches(changes, training, evaluation):
    """Of the Keras example a block's attention of an image is 256 kB."""
    options = get_config().model.to_dict() | changes
    model = nnx.eval_shape(lambda: EANet(100, (32, 32, 3), **options, rngs=nnx.Rngs(0)))
    assert costs.images_in_cache(model, training=True) == training
    assert costs.images_in_cache(model, training=False) == evaluation


def test_a_run_sizes_the_microbatches_of_training_and_of_evaluation(monkeypatch):
    given = {}
    for module, name in ((run_lib, "make_evaluate"), (run_lib.step_lib, "make_train_steps")):
        monkeypatch.setattr(
            module, name, lambda *_, name=name, **options: given.update({name: options})
        )
    config = get_config()
    config.model.depth = 32
    images = random_images({"image_shape": (32, 32, 3), "num_classes": 100}, 256)
    run = run_lib.set_up(config, print, dataset=dataset_of(Split(*images), 100))
    run.make_train_steps()
    assert given["make_train_steps"]["microbatch"] == run.microbatch == 2  # the least
    assert given["make_evaluate"]["images_at_once"] == 4
