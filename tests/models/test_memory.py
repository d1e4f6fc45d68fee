import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks.contestant import random_images
from benchmarks.ours import dataset_of
from configs.eanet_cifar100 import get_config
from eanet import devices
from eanet.data.load import Split
from eanet.errors import UserError
from eanet.models import costs
from eanet.models.eanet import EANet
from eanet.training import run as run_lib

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
    assert given["make_evaluate"]["images_in_cache"] == 4


def test_more_than_a_device_has_is_refused(monkeypatch):
    mesh = devices.make_mesh(2)
    monkeypatch.setattr(devices, "physical_memory", lambda: mesh.size * 1000)
    devices.check_memory(1000, mesh)
    with pytest.raises(UserError, match=r"at least .* GB of memory.* lower model\.embed_dim"):
        devices.check_memory(1001, mesh)


def test_a_shortage_is_one_line():
    def run_out():
        raise MemoryError

    for use_up in (run_out, lambda: jnp.zeros(2**46).block_until_ready()):
        with pytest.raises(UserError, match=r"(?i)^out of memory|RESOURCE_EXHAUSTED"):
            devices.out_of_memory_refused()(use_up)()
    with pytest.raises(ZeroDivisionError), devices.out_of_memory_refused():
        _ = 1 / 0
