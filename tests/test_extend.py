"""Runs that go on longer than they were for."""

import json

import jax
import numpy as np
import optax
import pytest

import train
from eanet import config as config_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from eanet.training.optimizer import OptimizerOptions, make_optimizer
from eanet.training.run import set_up
from tests.helpers import plain


def constant(**keys):
    config = plain.get_config()
    config.optimizer.schedule = "constant"
    config.eval_every_epochs = 1.0  # also where the shorter run ends
    config.update(keys)
    return config


def lines(workdir):
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in found]


def tensors(workdir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.arrays("latest")


@pytest.mark.slow
def test_a_longer_run_of_a_constant_rate_is_the_one_that_was_meant_to_be_so_long(tmp_path, undrawn):
    whole, extended = tmp_path / "whole", tmp_path / "extended"
    train.train(constant(num_epochs=2.0), whole)
    train.train(constant(num_epochs=1.0), extended)
    with pytest.raises(UserError, match=r"--extend_to=1 is no more than the 1 epochs it is for"):
        train.train(None, extended, extend_to=1.0)
    train.train(None, extended, extend_to=2.0)
    jax.tree.map(np.testing.assert_array_equal, tensors(extended), tensors(whole))
    assert lines(extended) == lines(whole)
    assert config_lib.from_json(extended / "config.json").num_epochs == 2.0
    record = json.loads((extended / "run.json").read_text())
    step = lines(whole)[0]["step"]
    assert record["changes"] == [{"step": step, "key": "num_epochs", "before": 1.0, "after": 2.0}]
    with pytest.raises(UserError, match="has trained 2 epochs, more than num_epochs=1"):
        train.train(constant(num_epochs=1.0), extended)
    with pytest.raises(UserError, match=r"another config.*seed is 0 there, 1 here"):
        train.train(constant(num_epochs=3.0, seed=1), extended)
    assert config_lib.from_json(extended / "config.json").num_epochs == 2.0


@pytest.mark.slow
def test_a_schedule_that_ends_is_that_of_the_new_length_from_there_on(tmp_path, undrawn):
    config = constant(num_epochs=1.0)
    config.optimizer.schedule = "cosine"
    train.train(config, tmp_path)
    train.extend(config, 2.0)
    run = set_up(config, print)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        joint, state = checkpoints.restore("latest", run.abstract_state())
    assert joint == run.plan.steps(1.0)
    rise = run.plan.steps(config.optimizer.warmup_epochs)
    share = (joint - rise) / (run.plan.total_steps - rise)
    rate = config.optimizer.learning_rate * (1 + np.cos(np.pi * share)) / 2
    np.testing.assert_allclose(run.learning_rate(joint), rate, rtol=1e-5)
    # And this is what the optimizer makes of the state where the shorter run ended.
    options, kernels = OptimizerOptions(**config.optimizer), run.model.kernels
    constant_rate = make_optimizer(options, optax.constant_schedule(rate), kernels)
    gradients = jax.tree.map(np.ones_like, jax.device_get(state.params))
    found, expected = (
        optimizer.update(gradients, state.opt_state, state.params)[0]
        for optimizer in (run.optimizer, constant_rate)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_a_config_is_right_at_every_moment_of_its_change(tmp_path, monkeypatch):
    config_lib.write(tmp_path, constant())
    written = config_lib.files.write_atomically

    def killed(path, content):
        if path.name == "config.json":
            raise KeyboardInterrupt
        written(path, content)

    monkeypatch.setattr(config_lib.files, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        config_lib.rewrite(tmp_path, constant(num_epochs=3.0), 7)
    monkeypatch.undo()
    assert config_lib.from_json(tmp_path / "config.json").num_epochs == 2.0
    config_lib.rewrite(tmp_path, constant(num_epochs=3.0), 7)
    assert config_lib.from_json(tmp_path / "config.json").num_epochs == 3.0
    changed = (tmp_path / "config.json").read_text().replace('"seed": 0', '"seed": 1')
    (tmp_path / "config.json").write_text(changed)
    with pytest.raises(UserError, match="not what was written"):
        config_lib.from_json(tmp_path / "config.json")
