"""Every config builds its model and takes one training step."""

import importlib
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from eanet import config as config_lib
from eanet import devices
from eanet.data.base import Split
from eanet.data.load import Dataset
from eanet.models import costs
from eanet.training import config_schema
from eanet.training import run as run_lib
from eanet.training.metrics import means

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

# By the data set, or by the config where the data set has images of many sizes.
SHAPES = {
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "digits": ((8, 8, 1), 10),
    "imagenet_eamlp7": ((384, 384, 3), 1000),
    "imagenet_eanet": ((224, 224, 3), 1000),
}

# Each file of configs/, with its arguments, and the number of parameters of its model.
PARAMETERS = {
    ("eanet_cifar100", ""): 361_380,
    ("eanet_cifar10", ""): 355_530,
    ("eanet_cifar100_fast", ""): 417_444,
    ("eanet_cifar100_pure", ""): 417_572,
    ("eanet_cifar100_best", ""): 469_476,
    ("eanet_digits", ""): 137_802,
    ("vit_cifar100", ""): 623_268,
    ("vit_cifar100", "per_head"): 225_444,
    ("testing", ""): 3_098,
    ("imagenet_eamlp7", ""): 6_186_600,
    ("imagenet_eanet", ""): 11_877_352,
}


@pytest.fixture(autouse=True)
def small_random_data(monkeypatch, request):
    """256 random images of the right shape in the place of any dataset."""
    config = request.getfixturevalue("key")[0] if "key" in request.fixturenames else ""

    def load(name, **options):
        shape, classes = SHAPES.get(config) or SHAPES[name]
        rng = np.random.default_rng(0)

        def split(count):
            images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
            return Split(images, rng.integers(0, classes, count).astype(np.int32))

        statistics = np.full(shape[-1], 127, np.float32), np.full(shape[-1], 60, np.float32)
        names = tuple(str(label) for label in range(classes))
        return Dataset(name, split(256), split(16), split(16), names, *statistics)

    monkeypatch.setattr(run_lib, "load_dataset", load)


def get_config(name, argument):
    module = importlib.import_module(f"configs.{name}")
    return (module.get_config(argument) if argument else module.get_config()).lock()


def set_up(config):
    config.batch_size = 8
    return run_lib.set_up(config, log=print)


def test_every_config_is_tested():
    files = {path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__"}
    assert files == {name for name, _ in PARAMETERS}


@pytest.mark.parametrize("key", PARAMETERS, ids="".join)
def test_the_number_of_parameters(key):
    model = set_up(get_config(*key)).model.abstract
    assert costs.count_parameters(model) == PARAMETERS[key]
    assert costs.totals(costs.summarize(model))[0] == PARAMETERS[key]


def test_what_the_models_for_imagenet_cost():
    """Each block of EAMLP-7 has the parameters of the published code, counted from its shapes."""
    d, heads, head_dim, units, mlp = 256, 16, 64, 64, 512
    width = heads * head_dim
    attention = (d + 1) * width + (head_dim + 1) * units + (units + 1) * head_dim + (width + 1) * d
    block = attention + (d + 1) * mlp + (mlp + 1) * d + 2 * 2 * d
    ends = (16 * 16 * 3 + 1 + 576) * d + 2 * d + (d + 1) * 1000
    assert block == 797_824 and 7 * block + ends == PARAMETERS["imagenet_eamlp7", ""]
    macs = {"imagenet_eamlp7": 3_284_396_032, "imagenet_eanet": 2_347_890_688}
    for name, expected in macs.items():
        shape, classes = SHAPES[name]
        model = run_lib.build_model(get_config(name, ""), classes, shape).abstract
        assert costs.totals(costs.summarize(model))[1] == expected
        assert f"{expected / 1e9:.2f} G" in (CONFIGS.parent / "docs/imagenet.md").read_text()


def test_the_config_of_the_oldest_run_builds_its_model():
    path = CONFIGS.parent / "docs/cifar100_10epochs/config.json"
    config = config_schema.read(path).unlock()
    assert costs.count_parameters(set_up(config).model.abstract) == 361_380


@pytest.mark.slow
@pytest.mark.parametrize("key", PARAMETERS, ids="".join)
def test_one_training_step(key):
    config = get_config(*key)
    config.model.depth = 1  # the other blocks would only take longer to compile
    base = get_config("eanet_cifar100", "")
    if key[0].startswith("imagenet") or (
        key[0] != "eanet_cifar100" and config.augment == base.augment
    ):
        # As would the augmentation of the base once more, and a policy.
        config.augment.update({name: type(value)(0) for name, value in config.augment.items()})
    run = set_up(config)
    state = run.initial_state()
    before = jax.device_get(state.params)
    images = devices.replicate((run.dataset.train.images, run.dataset.train.labels), run.mesh)
    order = devices.replicate(run.order(0), run.mesh)
    state, sums, _ = run.make_train_steps()(state, *images, order, run.seed, 0, 0, 1)
    metrics = means(sums)
    # Untrained, so about as good as guessing.
    assert abs(metrics["loss"] - math.log(run.dataset.num_classes)) < 1.0
    assert 0 < metrics["grad_norm"] < math.inf
    first_rate = float(run.learning_rate(0))
    changed = jax.tree.map(
        lambda old, new: bool((old != np.asarray(new)).any()), before, state.params
    )
    assert changed["head"]["kernel"] == (first_rate > 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


def test_a_variant_states_only_what_differs():
    base = get_config("eanet_cifar100", "")
    for key, expected in {
        ("eanet_cifar10", ""): {"dataset.name"},
        ("vit_cifar100", ""): {"model.attention", "model.num_heads", "model.head_dim"},
    }.items():
        differences = config_lib.differences(base, get_config(*key))
        assert {name for name, _, _ in differences} == expected
    keys = [name for name, _ in config_lib.flatten(base)]
    for key in PARAMETERS:
        assert [name for name, _ in config_lib.flatten(get_config(*key))] == keys


def test_every_value_of_every_config_has_a_rule():
    for key in PARAMETERS:
        config_schema.check(get_config(*key))
    keys = {name for name, _ in config_lib.flatten(get_config("eanet_cifar100", ""))}
    assert keys == set(config_schema.all_rules())


def test_every_value_of_the_base_config_is_explained():
    lines = (CONFIGS / "eanet_cifar100.py").read_text().splitlines()
    assignments = [line for line in lines if re.match(r"    [\w.]+ = (?!ConfigDict)", line)]
    assignments = [line for line in assignments if "ConfigDict()" not in line]
    assert len(assignments) == len(list(config_lib.flatten(get_config("eanet_cifar100", ""))))
    assert [line for line in assignments if "  # " not in line and "weight_decay" not in line] == []


def test_an_unknown_argument_of_the_baseline_is_refused():
    with pytest.raises(ValueError, match="full, per_head, not 'half'"):
        get_config("vit_cifar100", "half")
