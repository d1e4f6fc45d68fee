"""From the files of a run to a model."""

import dataclasses
import json
import shutil
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

import eanet
from eanet import config as config_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from eanet.training.run import set_up
from tests.inference.conftest import ROOT


def edit(workdir, section, **values):
    """Changes the config of a run by hand, as one that has no digest of it."""
    config = json.loads((workdir / "config.json").read_text())
    config[section] |= values
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "run.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def states(trained):
    """Three states of the run, with parameters that tell them apart."""
    run = set_up(config_lib.from_json(trained / "config.json"), print)
    like = run.abstract_state()

    def filled(value):
        state = jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), like)
        ema = jax.tree.map(lambda leaf: leaf + np.asarray(0.5, leaf.dtype), state.params)
        return jax.device_put(dataclasses.replace(state, ema=ema))

    return {step: filled(step) for step in (1, 2, 3)}


@pytest.fixture
def validated(copy, states):
    """Best is 2, latest is 3; the moving averages lie 0.5 above."""
    shutil.rmtree(copy / "checkpoints")
    with Checkpoints(copy / "checkpoints") as checkpoints:
        for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7)):
            checkpoints.save(step, states[step], val_accuracy=accuracy)
    return copy


@pytest.mark.parametrize(("checkpoint", "step"), [("best", 2), ("latest", 3), ("3", 3), (2, 2)])
def test_the_checkpoint_that_was_asked_for(validated, checkpoint, step):
    model = eanet.load(validated, checkpoint)
    assert model.step == step
    for leaf in jax.tree.leaves(model.params):
        assert (leaf == step + 0.5).all()  # of the moving average


def test_the_best_is_the_latest_where_nothing_was_validated(copy, states):
    shutil.rmtree(copy / "checkpoints")
    with Checkpoints(copy / "checkpoints") as checkpoints:
        checkpoints.save(1, states[1])
        checkpoints.save(2, dataclasses.replace(states[2], ema=None))
    model = eanet.load(str(copy))
    assert model.step == 2
    assert all((leaf == 2).all() for leaf in jax.tree.leaves(model.params))


@pytest.mark.parametrize(
    ("checkpoint", "told"), [("7", "step 7"), ("newest", "newest"), (1.5, "1.5")]
)
def test_a_checkpoint_that_is_not_there_is_refused(copy, checkpoint, told):
    with pytest.raises(UserError, match=told):
        eanet.load(copy, checkpoint)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        eanet.load(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(copy):
    edit(copy, "model", memory_size=4)
    with pytest.raises(UserError, match="memory_size is 8 in the checkpoint and 4 here"):
        eanet.load(copy)


def test_a_run_of_before_model_json_is_loaded_with_a_note(copy, trained):
    (copy / "model.json").unlink()
    with pytest.warns(UserWarning, match=r"no model\.json: .* its data now") as caught:
        model = eanet.load(copy)
    assert caught[0].filename == __file__
    assert model.record == eanet.load(trained).record


def test_without_model_json_and_data_one_line_says_what_is_missing(copy):
    (copy / "model.json").unlink()
    edit(copy, "dataset", name="folder:/nonexistent")
    with (
        pytest.warns(UserWarning),
        pytest.raises(UserError, match=r"model\.json.*class names.*/nonexistent") as refusal,
    ):
        eanet.load(copy)
    assert "\n" not in str(refusal.value)


SCRIPT = """
import os, signal, sys, warnings
import jax, absl.flags  # what these do is theirs

from orbax.checkpoint import v1

def environment():
    signals = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    return (dict(os.environ), {s: signal.getsignal(s) for s in signals}, os.getcwd(),
            sys.excepthook, sys.unraisablehook, warnings.filters[:], sys.argv[:])

before = environment()
import asyncio
import numpy as np
import eanet
assert environment() == before

async def cell():  # as in a notebook, whose cells run inside a loop
    model = eanet.load(sys.argv[1])
    images = np.zeros((3, *model.image_shape), np.uint8)
    return model.predict(images), model.features(images), model.attention_maps(images)

answers = asyncio.run(cell())
assert answers[0].shape == (3, 10)
assert environment() == before
assert not absl.flags.FLAGS.is_parsed()
"""


@pytest.mark.slow
def test_a_notebook_is_left_as_it_was(trained):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(trained)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_said_of_a_run_in_order(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        eanet.load(trained)
