"""The program as its user runs it: `python main.py` in a process of its own."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import train
from eanet import config as config_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from eanet.training import run as run_lib
from tests.helpers import plain
from tests.helpers.command_line import MAIN, ROOT, environment, fork_main, start_main

TESTING = "--config=configs/testing.py"
# Long enough to be stopped in the middle, with a checkpoint in every epoch.
LONGER = (TESTING, "--config.num_epochs=10", "--config.checkpoint_every_epochs=1")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run: its workdir, and what the process said."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, start_main(TESTING, f"--workdir={workdir}")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """A longer run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    done = fork_main(*LONGER, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_speed(workdir):
    return [{k: v for k, v in r.items() if k != "images_per_second"} for r in records(workdir)]


def final_state(workdir):
    config = config_lib.from_json(workdir / "config.json")
    like = run_lib.set_up(config, print).abstract_state()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore("latest", like=like)[1]


def assert_same_run(one, other):
    assert without_speed(one) == without_speed(other)
    states = [jax.tree.leaves(final_state(workdir)) for workdir in (one, other)]
    assert len(states[0]) == len(states[1]) > 50
    for left, right in zip(*states, strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def assert_refused(done, *parts):
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for part in parts:
        assert part in lines[0]


def test_a_run_leaves_the_promised_files(finished):
    workdir, done = finished
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for name in ("config.json", "metrics.jsonl", "results_test.json", "curves.png", "README.md"):
        assert (workdir / name).stat().st_size > 0
    assert list((workdir / "tensorboard").iterdir()) and list((workdir / "checkpoints").iterdir())
    results = json.loads((workdir / "results_test.json").read_text())
    assert results["num_examples"] == 359 and results["parameters"] == 3098
    assert {"loss", "accuracy", "top5_accuracy", "step", "versions", "git_commit"} <= set(results)
    # A second at least goes into importing JAX and compiling.
    assert 1 < results["cpu_seconds"] < results["run_seconds"] * os.cpu_count()


@pytest.mark.slow
def test_what_is_compiled_quickly_computes_the_same(finished, trained):
    """The tests' own process compiles in another way than the program of a user."""
    state, expected = (jax.device_get(final_state(workdir)) for workdir in (trained, finished[0]))
    assert int(state.step) == int(expected.step) == 39
    for actual, value in zip(*map(jax.tree.leaves, (state.params, expected.params)), strict=True):
        np.testing.assert_allclose(actual, value, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_start_from_the_compilation_cache_is_as_quiet(finished, tmp_path):
    done = start_main(TESTING, f"--workdir={tmp_path / 'again'}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_says_what_it_does(finished):
    _, done = finished
    for part in ("digits", "external attention", "3,098", "starts: 39 steps", "results_test.json"):
        assert part in done.stdout
    assert len(re.findall(r"^epoch ", done.stdout, re.MULTILINE)) == 2
    assert "\x1b" not in done.stdout


def test_the_log_has_a_line_for_every_epoch(finished):
    workdir, _ = finished
    train_lines = [r for r in records(workdir) if r["split"] == "train"]
    val_lines = [r for r in records(workdir) if r["split"] == "val"]
    assert [r["step"] for r in train_lines] == [20, 39]
    assert [r["step"] for r in val_lines] == [39]
    assert {"loss", "accuracy", "top5_accuracy", "learning_rate", "grad_norm"} <= set(
        train_lines[0]
    )


def test_a_finished_run_only_evaluates(finished):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    done = fork_main(TESTING, f"--workdir={workdir}")
    assert done.returncode == 0 and "already complete" in done.stdout
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_evaluation_needs_no_config_and_agrees(finished):
    workdir, _ = finished
    expected = json.loads((workdir / "results_test.json").read_text())
    done = start_main("--mode=eval", f"--workdir={workdir}", "--checkpoint=best")
    assert done.returncode == 0, done.stderr
    again = json.loads((workdir / "results_test.json").read_text())
    for key in ("loss", "accuracy", "top5_accuracy", "step"):
        assert again[key] == expected[key]
    done = fork_main("--mode=eval", f"--workdir={workdir}", "--checkpoint=39", "--split=val")
    assert done.returncode == 0
    logged = [r for r in records(workdir) if r["split"] == "val"][-1]
    validated = json.loads((workdir / "results_val_step_39.json").read_text())
    assert validated["accuracy"] == logged["accuracy"]


def start(workdir, *arguments):
    return subprocess.Popen(
        [sys.executable, MAIN, *LONGER, f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(process, workdir, count):
    deadline = time.monotonic() + 120
    path = workdir / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_signal_saves_the_state(uninterrupted, tmp_path):
    for number, code, lines in [(signal.SIGTERM, 143, 3), (signal.SIGINT, 130, 7)]:
        process = start(tmp_path)
        wait_for_lines(process, tmp_path, lines)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == code
        assert re.fullmatch(r"interrupted after step \d+, state saved: .*\n", errors)
    done = fork_main(*LONGER, f"--workdir={tmp_path}")
    step = re.search(r"after step (\d+)", errors)[1]
    assert f"resumes at step {step}" in done.stdout.replace(",", "")
    assert_same_run(uninterrupted, tmp_path)
    # What the run took before it was stopped is not known, so nothing is said of the whole.
    results = json.loads((tmp_path / "results_test.json").read_text())
    assert not {"run_seconds", "cpu_seconds"} & set(results)


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_ends_as_its_runs_do_alone(uninterrupted, tmp_path):
    sweep = ("--mode=sweep", "--sweep=num_epochs=2,10", "--workers=2")
    process = start(tmp_path, *sweep)
    wait_for_lines(process, tmp_path / "num_epochs=10.0", 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "sweep interrupted: the same command goes on\n")
    done = start_main(*LONGER, *sweep, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 runs: 2 done" in done.stdout
    log = (tmp_path / "num_epochs=10.0" / "train.log").read_text()
    assert "starts: " in log and "resumes at step" in log
    assert_same_run(uninterrupted, tmp_path / "num_epochs=10.0")
    latency = json.loads((tmp_path / "latency.json").read_text())
    assert len(latency["models"]) == 1 and min(latency["models"].values()) > 0
    for name in ("report.html", "sweep.csv", "sweep.md", "accuracy.png", "pareto.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert "| 10 | " in (tmp_path / "sweep.md").read_text().replace("**", "")


@pytest.mark.slow
def test_a_full_disk_ends_a_run_in_one_line_and_costs_nothing(uninterrupted, tmp_path):
    process = subprocess.run(
        [sys.executable, MAIN, *LONGER, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert_refused(process, "could not be saved", "File too large", "start again")
    done = fork_main(*LONGER, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert_same_run(uninterrupted, tmp_path / "run")


STOPPED_IN_VALIDATION = """
import dataclasses, os, signal, sys
from pathlib import Path
import train
from eanet.config import load_module
from eanet.errors import Interrupted

def set_up(config, log, set_up=train.set_up, **options):
    run = set_up(config, log, **options)
    def evaluate(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return run.evaluate(*arguments)
    return dataclasses.replace(run, evaluate=evaluate)

train.set_up = set_up
try:
    train.train(load_module("configs/testing.py").get_config(), Path(sys.argv[1]))
except Interrupted as interrupted:
    print(interrupted)
    sys.exit(128 + interrupted.signal)
"""


@pytest.mark.slow
def test_a_signal_while_validating_is_answered_and_costs_nothing(finished, tmp_path):
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_VALIDATION, str(tmp_path / "run")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 143, stopped.stderr
    assert "interrupted after step 39, state saved" in stopped.stdout
    assert [r["split"] for r in records(tmp_path / "run")] == ["train", "train"]
    done = fork_main(TESTING, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert_same_run(finished[0], tmp_path / "run")


@pytest.mark.slow
def test_a_workdir_in_use_is_refused(tmp_path):
    process = start(tmp_path)
    wait_for_lines(process, tmp_path, 1)
    refused = fork_main(*LONGER, f"--workdir={tmp_path}")
    process.kill()
    process.communicate()
    assert_refused(refused, "in use", f"process {process.pid}", str(tmp_path))


@pytest.fixture(scope="session")
def diverged(tmp_path_factory):
    """A run whose learning rate is far too high."""
    workdir = tmp_path_factory.mktemp("runs") / "diverged"
    return workdir, fork_main(
        *plain.ARGUMENTS, "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e30",
        "--config.optimizer.schedule=constant", "--config.layer_statistics=True",
        "--config.eval_every_epochs=0.1", f"--workdir={workdir}",
    )  # fmt: skip


@pytest.mark.slow
def test_a_diverged_run_stops_with_code_3_and_leaves_a_black_box(diverged):
    workdir, done = diverged
    assert done.returncode == 3
    assert re.fullmatch(
        r"error: loss or gradient are not finite in step \d+ \(first: .*\n", done.stderr
    )
    record = json.loads((workdir / "blackbox.json").read_text())
    step = record["step"]
    assert f"in step {step + 1} " in done.stderr and record["replay"] in done.stderr
    assert len(record["indices"]) == 64 and record["where"] in done.stderr
    assert (workdir / "checkpoints" / str(step)).is_dir()
    # The state that was saved is the one before that step, and good.
    state = final_state(workdir)
    assert int(state.step) == step
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


@pytest.mark.slow
def test_the_failed_step_can_be_seen_again(diverged):
    workdir, _ = diverged
    step = json.loads((workdir / "blackbox.json").read_text())["step"]
    again = start_main("--mode=replay", f"--workdir={workdir}")
    assert again.returncode == 3
    assert again.stderr.startswith(f"error: step {step + 1} fails again (first: ")
    assert "blocks/1" in again.stdout and "gradient norm" in again.stdout


@pytest.mark.slow
def test_layers_are_logged_when_asked(diverged):
    workdir, _ = diverged
    layers = [r for r in records(workdir) if r["split"] == "layers"]
    assert layers and {"patch_embed/activation_rms", "blocks/1/gradient_norm"} <= set(layers[0])


def test_there_is_nothing_to_replay_in_a_run_that_went_well(finished):
    assert_refused(fork_main("--mode=replay", f"--workdir={finished[0]}"), "blackbox.json")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ({"model.memory_size": 0}, ["model.memory_size=0", "from 1 to 65,536"]),
        ({"model.patch_size": 5}, ["patch_size=5", "8"]),
        ({"model.patch_size": 64}, ["patch_size=64", "8"]),
        ({"model.attention": "wide"}, ["model.attention='wide'", "external, self"]),
        ({"model.norm": "wide"}, ["model.norm", "double"]),
        ({"model.dtype": "int8"}, ["model.dtype", "bfloat16"]),
        ({"model.dropout_rate": 1.0}, ["model.dropout_rate"]),
        ({"augment.rotation": 2.0}, ["augment.rotation"]),
        ({"optimizer.name": "adamx"}, ["optimizer.name", "adamw"]),
        ({"optimizer.schedule": "x"}, ["optimizer.schedule", "cosine"]),
        ({"optimizer.decay": "x"}, ["optimizer.decay", "matrices"]),
        ({"optimizer.ema_decay": 1.0}, ["optimizer.ema_decay"]),
        ({"optimizer.warmup_epochs": 9.0}, ["optimizer.warmup_epochs"]),
        ({"random_bits": "x"}, ["random_bits", "counter"]),
        ({"batch_size": 100000}, ["batch_size", "training examples"]),
        ({"microbatch_size": -1}, ["microbatch_size"]),
        ({"on_nonfinite": "hope"}, ["on_nonfinite", "stop, skip"]),
        ({"nonfinite_limit": -1}, ["nonfinite_limit"]),
        ({"checkpoint_every_steps": -1}, ["checkpoint_every_steps"]),
        ({"checkpoint_every_minutes": -1.0}, ["checkpoint_every_minutes"]),
        ({"label_smoothing": 1.0}, ["label_smoothing"]),
        ({"num_epochs": 0.0}, ["num_epochs"]),
        ({"dataset.name": "digit"}, ["digit"]),
        ({"dataset.name": "folder:/nonexistent"}, ["/nonexistent"]),
        ({"dataset.val_fraction": 2.0}, ["val_fraction"]),
        ({"dataset.val_fraction": 1.0}, ["dataset.val_fraction=1.0", "from 0 to below 1"]),
        ({"num_epochs": float("nan")}, ["num_epochs=nan", "above 0"]),
        ({"num_epochs": 1e308}, ["num_epochs=1e+308", "to 1,000,000"]),
        ({"eval_every_epochs": 0.0}, ["eval_every_epochs=0.0", "above 0"]),
        ({"batch_size": 0}, ["batch_size=0", "from 1"]),
        ({"seed": -1}, ["seed=-1", "from 0 to 4,294,967,295"]),
        ({"seed": 2**32}, ["seed=4294967296", "from 0 to 4,294,967,295"]),
        ({"optimizer.learning_rate": -1.0}, ["optimizer.learning_rate=-1.0", "from 0"]),
        ({"optimizer.learning_rate": float("inf")}, ["optimizer.learning_rate=inf"]),
        ({"optimizer.epsilon": 0.0}, ["optimizer.epsilon=0.0"]),
        ({"model.param_dtype": "float16"}, ["epsilon=1e-07", "optimizer.epsilon=1e-4", "bfloat16"]),
        ({"model.depth": 0}, ["model.depth=0", "from 1 to 1,000"]),
        ({"model.dropout_rate": 1.5}, ["model.dropout_rate=1.5", "from 0 to 0.999"]),
        ({"model.embed_dim": 65536, "model.num_heads": 65536}, ["GB of memory", "embed_dim"]),
        (
            {"model.memory_size": 65536, "model.num_heads": 65536, "model.head_dim": 16},
            ["GB of memory"],
        ),
        ({"augment.pad_crop": 8}, ["augment.pad_crop=8", "8x8"]),
    ],
)
def test_an_impossible_value_is_refused_in_one_line(tmp_path, override, parts):
    config = config_lib.load(str(ROOT / "configs/testing.py"))
    config.update_from_flattened_dict(override)
    with pytest.raises(UserError) as refusal:
        train.train(config, tmp_path / "run")
    message = str(refusal.value)
    assert "\n" not in message and all(part in message for part in parts), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--config.model.memory_sise=8"], ["model.memory_sise", "model.memory_size"]),
        (["--config.memory_size=8"], ["memory_size", "model.memory_size"]),
        (["--config.model.memory_size=many"], ["model.memory_size=many"]),
        (["--config.model.patch_size=5"], ["patch_size=5", "8"]),
        (["--config.dataset.name=cifar100", "--config.dataset.data_dir=/none"], ["/none"]),
        (["--wrkdir=x"], ["wrkdir", "workdir"]),
        (["--mode=fly"], ["mode"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_bad_input_gets_one_clear_line(tmp_path, arguments, parts):
    workdir = tmp_path / "run"
    assert_refused(fork_main(TESTING, *arguments, f"--workdir={workdir}"), *parts)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--config"]),
        (["--config=configs/eanet_cifar10O.py"], ["eanet_cifar10O.py", "eanet_cifar10"]),
        (["--config=README.md"], ["README.md"]),
        (["--config=configs/vit_cifar100.py:wide"], ["wide", "per_head"]),
        (["--config.seed=1", "--workdir=x"], ["--config.seed=1", "--config=FILE is missing"]),
        (["--flagfile=/nonexistent"], ["flagfile", "/nonexistent"]),
        ([TESTING, "--noconfig.augment.flip=true"], ["--config.augment.flip=false"]),
        (["--mode=eval"], ["--workdir"]),
        (["--mode=eval", "--workdir=/nonexistent"], ["/nonexistent"]),
        ([TESTING, "--mode=sweep"], ["--sweep=NAME"]),
        ([TESTING, "--seeds=0"], ["--seeds=0", "positive"]),
        ([TESTING, "--seeds=2", "--mode=train"], ["--seeds has no effect in --mode=train"]),
        ([TESTING, "--seeds=2", "--sweep=memory_size"], ["seed=0..2"]),
        (["--seeds=2", "--workdir=x"], ["--config=FILE is missing"]),
        (
            [TESTING, "--mode=sweep", "--sweep=model.memory_size=4,0"],
            ["run memory_size=0: ", "must be"],
        ),
    ],
)
def test_a_bad_command_gets_one_clear_line(arguments, parts):
    assert_refused(fork_main(*arguments), *parts)


def test_a_workdir_of_another_config_is_left_alone(finished):
    workdir, _ = finished
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    done = fork_main(TESTING, "--config.model.memory_size=4", f"--workdir={workdir}")
    assert_refused(done, "model.memory_size is 8 there, 4 here", str(workdir))
    assert before == {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


@pytest.fixture
def edited(finished, tmp_path):
    """A copy of the finished run, whose `config.json` a person has changed."""

    def edit(changes):
        workdir = tmp_path / "edited"
        shutil.copytree(finished[0], workdir)
        config = config_lib.from_json(workdir / "config.json").unlock()
        config.update_from_flattened_dict(changes)
        (workdir / "config.json").write_bytes(config_lib.to_json(config))
        (workdir / "run.json").unlink()  # which is how a person says that it was meant
        return workdir, config

    return edit


@pytest.mark.parametrize(
    ("changes", "told", "tensor"),
    [
        (
            {"model.memory_size": 4},
            "model.memory_size is 8 in the checkpoint and 4 here",
            "key_mem",
        ),
        ({"model.embed_dim": 8}, "model.embed_dim is 16 in the checkpoint and 8 here", "kernel"),
        ({"model.depth": 1}, "model.depth is 2 in the checkpoint and 1 here", "blocks/"),
        ({"model.depth": 3}, "model.depth is 2 in the checkpoint and 3 here", "blocks/"),
        ({"model.num_heads": 4, "model.head_dim": 4}, "model.num_heads is 2 in", "query_bias"),
        ({"model.attention": "self"}, "model.attention is external in", "attention/"),
        ({"model.patch_size": 2}, "patches (model.patch_size) is 4 in", "position_embedding"),
        ({"model.param_dtype": "bfloat16"}, "model.param_dtype is float32 in", "bfloat16["),
        ({"optimizer.ema_decay": 0.0}, "optimizer.ema_decay is 0.9", "ema/"),
        ({"optimizer.name": "sgd"}, "optimizer.name is adamw in", "opt_state/"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_whole(edited, changes, told, tensor):
    workdir, config = edited(changes)
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    starts = [lambda: train.train(config, workdir)]
    if "optimizer" not in told:  # evaluation needs the parameters alone
        starts.append(lambda: train.evaluate(workdir))
    for start in starts:
        with pytest.raises(UserError, match="does not fit this config") as refusal:
            start()
        for part in (told, tensor, "use the config it was trained with"):
            assert part in str(refusal.value)
    assert before == {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def test_evaluation_refuses_what_is_not_there(finished, tmp_path):
    workdir, _ = finished
    assert_refused(fork_main("--mode=eval", f"--workdir={workdir}", "--checkpoint=7"), "7")
    (tmp_path / "config.json").write_text("{")
    assert_refused(fork_main("--mode=eval", f"--workdir={tmp_path}"), "config.json")
    config = json.loads((workdir / "config.json").read_text())
    for damaged in (config | {"dataset": 3}, {"model": {}}, config | {"batch_size": "many"}):
        (tmp_path / "config.json").write_text(json.dumps(damaged))
        assert_refused(fork_main("--mode=eval", f"--workdir={tmp_path}"), "config.json")


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(fork_main(TESTING, f"--workdir={tmp_path}/file/run"), "file")
