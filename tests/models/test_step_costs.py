"""A regression guard without timing: what a training step costs, counted in its program."""

import math

import jax
import pytest
from jax.extend.core import jaxprs_in_params

from benchmarks.contestant import random_images
from benchmarks.ours import dataset_of
from configs import eanet_cifar100
from eanet import devices
from eanet.data.load import Split
from eanet.training.run import set_up
from tests.helpers import step_bounds


@pytest.fixture(scope="module")
def step():
    """The step of the Keras example, traced at full size; nothing is compiled."""
    images = random_images({"image_shape": (32, 32, 3), "num_classes": 100}, 128)
    dataset = dataset_of(Split(*images), 100)
    run = set_up(eanet_cifar100.get_config(), print, dataset=dataset)
    assert run.mesh.size == 2

    def abstract(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=devices.replicated(run.mesh))

    placed = [abstract(array.shape, array.dtype) for array in images]
    return run.make_train_steps().trace(
        run.abstract_state(), *placed, abstract((256,), "int32"), run.seed, 0, 0, 1
    )


def equations(jaxpr, times=1):
    """All equations of a program, inner ones too, and how often each runs in a step."""
    for equation in jaxpr.eqns:
        yield equation, times
        name, params = equation.primitive.name, equation.params
        inner = times * {"scan": params.get("length", 1)}.get(name, 1)
        if name == "shard_map":
            inner *= params["mesh"].size
        for body in jaxprs_in_params(params):
            yield from equations(body, inner)


def test_operations_and_bytes_do_not_grow(step):
    step_bounds.assert_within(step.lower().cost_analysis(), step_bounds.LOWERED)


def test_random_words_do_not_grow(step):
    words = 0.0
    for equation, times in equations(step.jaxpr.jaxpr):
        size = sum(math.prod(result.aval.shape) for result in equation.outvars)
        if equation.primitive.name == "random_bits":
            words += times * size
        # A word of `eanet.prng` takes three shifts; nothing else in a pass shifts.
        if equation.primitive.name == "shift_right_logical":
            words += times * size / 3
    step_bounds.assert_within({"words": words}, {"words": step_bounds.WORDS})
    assert words > 0.9 * step_bounds.WORDS, "words are drawn that this test does not see"


def test_many_steps_are_one_loop_on_the_device(step):
    """One dispatch, whatever the number of steps; outside the loop there are only copies."""
    outside = [equation.primitive.name for equation in step.jaxpr.eqns]
    assert outside.count("while") == 1
    assert set(outside) == {"while", "copy"}
