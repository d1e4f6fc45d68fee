"""What is decided by platform, and the programs of accelerators, as far as a CPU can show them."""

import contextlib
import re
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import eanet
from configs import imagenet_eamlp7, imagenet_eanet, testing
from eanet import config as config_lib
from eanet import platforms
from eanet.cluster.members import Members
from eanet.data.base import Split
from eanet.data.load import Dataset
from eanet.models import costs
from eanet.models.attention import ExternalAttention
from eanet.models.attention_fast import FastExternalAttention
from eanet.models.self_attention import SelfAttention
from eanet.training import run as run_lib
from eanet.training.run import build_model, set_up

ACCELERATORS = ("cuda", "rocm", "tpu")
LOOPS = {"model.memory_size": 64}  # the fast form of external attention, in this small model


def device(platform, **statistics):
    return SimpleNamespace(platform=platform, memory_stats=lambda: statistics or None)


@pytest.fixture
def accelerator(monkeypatch):
    """Everything is decided as for a GPU that tells nothing of its memory."""
    decide = platforms.images_at_once
    monkeypatch.setattr(platforms, "platform", lambda: "gpu")
    monkeypatch.setattr(
        platforms, "images_at_once", lambda _, **options: decide(device("gpu"), **options)
    )


def configured(**changes):
    return config_lib.override(testing.get_config(), {"model.implementation": "auto", **changes})


@pytest.mark.parametrize(
    ("platform", "changes", "expected"),
    [
        ("cpu", {}, FastExternalAttention),
        ("cpu", LOOPS, FastExternalAttention),
        ("gpu", {}, FastExternalAttention),
        ("gpu", LOOPS, ExternalAttention),
        ("tpu", LOOPS, ExternalAttention),
        ("gpu", {"model.attention": "self"}, SelfAttention),
        ("gpu", LOOPS | {"model.implementation": "fast"}, FastExternalAttention),
    ],
)
def test_auto_takes_the_form_that_suits_the_platform(monkeypatch, platform, changes, expected):
    monkeypatch.setattr(platforms, "platform", lambda: platform)
    model = build_model(configured(**changes), 10, (8, 8, 1)).abstract
    assert type(model.blocks.attention) is expected


@pytest.mark.parametrize(
    ("of", "in_cache", "expected"),
    [
        (device("cpu"), 0, 2),
        (device("cpu"), 5, 5),
        (device("cpu", bytes_limit=10), 99, 8),
        (device("gpu"), 1, sys.maxsize),
        (device("gpu", bytes_limit=2000), 1, 7),  # 70 % of the 1,000 that are free
        (device("tpu", bytes_limit=1000), 1, 1),
    ],
)
def test_a_cpu_fills_its_caches_and_an_accelerator_its_memory(of, in_cache, expected):
    found = platforms.images_at_once(of, in_cache=in_cache, image_bytes=100, held=1000)
    assert found == expected


def test_the_memory_of_a_device_elsewhere_is_not_asked_for():
    def elsewhere():
        raise RuntimeError("MemoryStats is only supported for addressable PjRt devices")

    foreign = SimpleNamespace(platform="gpu", memory_stats=elsewhere)
    own = device("gpu", bytes_limit=10**12)
    values = {"devices": np.array([foreign, own]), "local_devices": [own]}
    mesh = object.__new__(type("Pod", (jax.sharding.Mesh,), values))
    model = set_up(configured(), print).model.abstract
    assert 1 < costs.images_at_once(model, mesh, training=True) < sys.maxsize


def test_an_accelerator_takes_its_share_of_the_batch_at_once(accelerator):
    run = set_up(configured(), print)
    assert run.microbatch == run.config.batch_size // run.mesh.size == 32


def test_processes_take_as_many_images_at_once_as_fit_each(accelerator, monkeypatch):
    found = []
    monkeypatch.setattr(
        run_lib, "make_evaluate", lambda *_, images_at_once, **__: found.append(images_at_once)
    )
    members = Members()
    members.exchange = lambda text: [text, "4"]
    assert set_up(configured(), print, members=members).microbatch == 4
    assert found == [4]


class Recorded(Exception):
    """Instead of a call: the function, jitted, and its arguments."""


@contextlib.contextmanager
def recording():
    """Within, what is jitted is not called, but raises what it would be called with."""
    jit = jax.jit

    def recorded(function, **options):
        jitted = jit(function, **options)

        def call(*arguments):
            raise Recorded(jitted, arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", recorded)
        yield


def program(work):
    """What `work` calls last, traced."""
    with pytest.raises(Recorded) as caught, recording():
        work()
    jitted, arguments = caught.value.args
    return jitted.trace(*arguments)


PLAIN = LOOPS | {"model.dtype": "bfloat16", "augment.rotation": 0.0, "augment.zoom": 0.0}


POLICIES = {"augment.trivial_augment": True, "augment.random_resized_crop": 0.08}
# As they are, but for the number of blocks, that of images and their size.
SMALL = {"model.depth": 2, "batch_size": 8, "dataset.image_size": (32, 32)}
CASES = {
    "fast": (testing, {}),
    "plain": (testing, PLAIN | POLICIES),
    "self-attention, Muon, streamed": (
        testing,
        {"model.attention": "self", "optimizer.name": "muon", "dataset.streaming": True},
    ),
    "EAMLP-7": pytest.param(imagenet_eamlp7, SMALL, marks=pytest.mark.slow),
    "EANet for ImageNet": pytest.param(imagenet_eanet, SMALL, marks=pytest.mark.slow),
}


def photos():
    """A data set of few images of the small size, instead of ImageNet."""
    images, labels = np.zeros((16, 32, 32, 3), np.uint8), np.arange(16, dtype=np.int32)
    split, names = Split(images, labels), tuple(map(str, labels))
    return Dataset("photos", split, split, split, names, np.ones(3, "f"), np.ones(3, "f"))


@pytest.mark.slow
@pytest.mark.parametrize(("module", "changes"), CASES.values(), ids=CASES)
def test_the_training_step_lowers_for_accelerators(accelerator, module, changes):
    """With augmentation, dropout, mixing, moving average and the optimizer, as it would run."""
    config = config_lib.override(module.get_config(), {"model.implementation": "auto", **changes})
    run = set_up(config, print, None if module is testing else photos())
    state, examples = run.abstract_state(), run.feed.shapes()
    assert run.streams == bool(config.dataset.streaming) == (examples[2] is None)
    traced = program(lambda: run.make_train_steps()(state, *examples, run.seed, 0, 0, 1))
    assert_lowers(traced)


def test_evaluation_and_prediction_lower_for_accelerators(accelerator, trained):
    run = set_up(configured(), print)
    params, model = run.initial_state().params, eanet.load(trained)
    images = np.zeros((3, *model.image_shape), np.uint8)
    with recording():
        evaluate = set_up(run.config, print, run.dataset).evaluate
    for work in (lambda: evaluate(params, run.dataset.test), lambda: model.predict(images)):
        assert_lowers(program(work))


def assert_lowers(traced):
    """For every accelerator, to operations of StableHLO alone: none that only a CPU has."""
    for platform in ACCELERATORS:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.dot_general" in text
        assert set(re.findall(r"custom_call @(\w+)", text)) == set(), platform
