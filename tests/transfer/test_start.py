"""Runs that start from weights that exist, by what `main.py` calls."""

import hashlib
import json

import jax
import numpy as np
import pytest

import train
from configs import testing
from eanet import config as config_lib
from eanet import load
from eanet.checkpoints.manager import Checkpoints
from eanet.cluster.members import Members
from eanet.display.console import Console
from eanet.errors import UserError
from eanet.export import keras
from eanet.export.form import Form
from eanet.inference.weights import to_bytes
from eanet.training.run import set_up
from eanet.transfer.start import initial_state
from eanet.workdir import model_record
from eanet.workdir.model_record import ModelRecord
from tests.helpers import plain


def equal(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(one), jax.device_get(other)))


@pytest.mark.slow
def test_a_run_starts_where_another_ended_and_keeps_a_record(trained, tmp_path, undrawn):
    config = plain.get_config()
    config.init_from = str(trained)
    config.optimizer.freeze = "*"
    with pytest.raises(UserError, match="leaves nothing to train"):
        train.train(config, tmp_path / "run")
    config.optimizer.freeze = "blocks/0/*, blocks/mlp/*, patch_embed/*, head/kernel"
    train.train(config, tmp_path / "run")
    start, end = (load(path).params for path in (trained, tmp_path / "run"))
    first, second = (
        [jax.tree.map(lambda leaf, at=block: leaf[at], of["blocks"]) for of in (start, end)]
        for block in range(2)
    )
    assert equal(*first) and equal(*(of["mlp"] for of in second))
    assert not equal(*(of["attention"]["key_memory"] for of in second))
    assert equal(start["head"]["kernel"], end["head"]["kernel"])
    assert not equal(start["head"]["bias"], end["head"]["bias"])
    record = json.loads((tmp_path / "run/init.json").read_text())
    assert record["source"] == str(trained) and record["step"] == load(trained).step > 0
    assert record["params_sha256"] == digest(start)
    assert {"taken"} == {tensor["outcome"] for tensor in record["tensors"]}


def digest(params):
    """As written out; the names are in the order of the alphabet."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(key.key for key in path)
        found.update(f"{name} float32 {np.shape(leaf)}".encode() + np.asarray(leaf).tobytes())
    return found.hexdigest()


def test_processes_connect_before_anything_is_computed_from_weights(tmp_path, monkeypatch):
    class Connected(Exception):
        """What comes after it is of no interest."""

    class Connecting(Members):
        def connect(self, mesh):
            raise Connected

    monkeypatch.setattr(train, "initial_state", lambda *_: pytest.fail("computed too early"))
    config = testing.get_config()
    config.init_from = str(tmp_path / "weights")
    with pytest.raises(Connected):
        train.train(config, tmp_path / "run", members=Connecting())


def test_the_moving_average_starts_from_the_weights_too(trained):
    config = testing.get_config()
    config.init_from = str(trained)
    state, _ = initial_state(set_up(config, print), Console())
    assert equal(state.params, load(trained).params)
    assert equal(state.ema, state.params) and int(state.step) == 0


def test_a_file_of_keras_is_a_start(trained, tmp_path, capfd):
    (tmp_path / "keras.weights.h5").write_bytes(keras.write(load(trained), Form()))
    config = testing.get_config()
    config.init_from = str(tmp_path / "keras.weights.h5")
    state, start = initial_state(set_up(config, print), Console())
    assert equal(state.params, load(trained).params)
    said = " ".join(capfd.readouterr().out.split())
    assert "Starts from the weights of " in said
    unnamed = "taken in their order: the weights do not name their classes"
    assert f"head/bias, kernel {unnamed} " in said
    outcomes = {row.name: row.outcome for row in start.tensors}
    assert {outcomes.pop("head/bias"), outcomes.pop("head/kernel")} == {unnamed}
    assert set(outcomes.values()) == {"taken"}
    assert start.step is None and start.params_sha256 == digest(load(trained).params)


def test_a_file_of_safetensors_is_a_start(trained, tmp_path):
    pytest.importorskip("safetensors", reason="requirements-export.txt has it")
    (tmp_path / "model.safetensors").write_bytes(to_bytes(load(trained)))
    config = testing.get_config()
    config.init_from = str(tmp_path / "model.safetensors")
    state, start = initial_state(set_up(config, print), Console())
    assert equal(state.params, load(trained).params)
    assert (start.step, start.params_sha256) == (load(trained).step, digest(load(trained).params))


@pytest.mark.slow
def test_a_stem_of_layers_in_a_list_and_fewer_units_start_a_run(tmp_path, capfd):
    config = testing.get_config()
    config.model.stem, config.model.patch_size = "convolutions", 4
    source = set_up(config, print)
    params = source.model.init(1)
    config_lib.write(tmp_path, config)
    model_record.write(tmp_path, ModelRecord.of(source.dataset))
    with Checkpoints(
        tmp_path / "checkpoints", config=dict(config_lib.flatten(config))
    ) as checkpoints:
        checkpoints.save(3, source.state_of(params))
    config.init_from, config.model.memory_size = str(tmp_path), 6
    state, start = initial_state(set_up(config, print), Console())
    assert equal(state.params["patch_embed"], params["patch_embed"])
    assert start.step == 3
    said = " ".join(capfd.readouterr().out.split())
    assert "taken: 8 units merged into 6" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere", "init_from=nowhere: cannot read nowhere/config.json"),
        ("nowhere.weights.h5", "cannot read nowhere.weights.h5"),
    ],
)
def test_a_start_that_is_not_there_is_refused_before_a_workdir_is_made(source, said, tmp_path):
    config = testing.get_config()
    config.init_from = source
    with pytest.raises(UserError, match=said):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
