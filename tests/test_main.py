"""The program as its user runs it: `python main.py` in a process of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from data_fixtures import write_folder

import train
from eanet import config as config_lib
from eanet.checkpoint import Checkpoints
from eanet.errors import UserError

ROOT = Path(__file__).parents[1]
TESTING = "--config=configs/testing.py"
# Long enough to be stopped in the middle, with a checkpoint in every epoch.
LONGER = (TESTING, "--config.num_epochs=40", "--config.checkpoint_every_epochs=1")


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Without the user's caches and settings, but with one cache for all processes of the tests."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    keep.pop("TFDS_DATA_DIR", None)
    keep.pop("XLA_FLAGS", None)
    return keep | {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "JAX_NUM_CPU_DEVICES": "1",
    }


@pytest.fixture(scope="session")
def run_main(environment):
    def run(*arguments, cwd=ROOT):
        return subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def finished(run_main, tmp_path_factory):
    """A finished run: its workdir, and what the process said."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, run_main(TESTING, f"--workdir={workdir}")


@pytest.fixture(scope="session")
def uninterrupted(run_main, tmp_path_factory):
    """A longer run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    done = run_main(*LONGER, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_speed(workdir):
    return [{k: v for k, v in r.items() if k != "images_per_second"} for r in records(workdir)]


def final_state(workdir):
    config = config_lib.from_json(workdir / "config.json")
    like = train.set_up(config, print).abstract_state()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(checkpoints.latest(), like=like)


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


def test_a_finished_run_only_evaluates(finished, run_main):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    done = run_main(TESTING, f"--workdir={workdir}")
    assert done.returncode == 0 and "already complete" in done.stdout
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_evaluation_needs_no_config_and_agrees(finished, run_main):
    workdir, _ = finished
    expected = json.loads((workdir / "results_test.json").read_text())
    done = run_main("--mode=eval", f"--workdir={workdir}", "--checkpoint=best")
    assert done.returncode == 0, done.stderr
    again = json.loads((workdir / "results_test.json").read_text())
    for key in ("loss", "accuracy", "top5_accuracy", "step"):
        assert again[key] == expected[key]
    done = run_main("--mode=eval", f"--workdir={workdir}", "--checkpoint=39", "--split=val")
    assert done.returncode == 0
    logged = [r for r in records(workdir) if r["split"] == "val"][-1]
    validated = json.loads((workdir / "results_val.json").read_text())
    assert validated["accuracy"] == logged["accuracy"]


def start(environment, workdir):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *LONGER, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment,
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
def test_a_killed_run_ends_as_if_it_had_not_been(environment, run_main, uninterrupted, tmp_path):
    for lines in (5, 25):
        process = start(environment, tmp_path)
        wait_for_lines(process, tmp_path, lines)
        process.kill()
        process.communicate()
    assert records(tmp_path)[-1]["step"] < records(uninterrupted)[-1]["step"]
    done = run_main(*LONGER, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "resumes at step" in done.stdout
    assert_same_run(uninterrupted, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state(environment, run_main, uninterrupted, tmp_path, number, code):
    process = start(environment, tmp_path)
    wait_for_lines(process, tmp_path, 7)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert re.fullmatch(r"interrupted after step \d+, state saved: .*\n", errors)
    done = run_main(*LONGER, f"--workdir={tmp_path}")
    step = re.search(r"after step (\d+)", errors)[1]
    assert f"resumes at step {step}" in done.stdout.replace(",", "")
    assert_same_run(uninterrupted, tmp_path)


def test_a_diverged_run_stops_with_code_3(run_main, tmp_path):
    done = run_main(
        TESTING, "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=1e30",
        "--config.optimizer.schedule=constant", f"--workdir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 3
    assert re.fullmatch(r"error: the loss is not finite at step \d+.*\n", done.stderr)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ({"model.memory_size": 0}, ["model.memory_size=0", "from 1 to 65,536"]),
        ({"model.patch_size": 5}, ["patch_size=5", "8"]),
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
        ({"model.depth": 0}, ["model.depth=0", "from 1 to 1,000"]),
        ({"model.dropout_rate": 1.5}, ["model.dropout_rate=1.5", "from 0 to 0.999"]),
        ({"model.embed_dim": 65536, "model.num_heads": 65536}, ["GB of memory", "embed_dim"]),
        ({"model.memory_size": 65536, "model.num_heads": 65536}, ["GB of memory"]),
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
def test_bad_input_gets_one_clear_line(run_main, tmp_path, arguments, parts):
    workdir = tmp_path / "run"
    assert_refused(run_main(TESTING, *arguments, f"--workdir={workdir}"), *parts)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--config"]),
        (["--config=configs/eanet_cifar10O.py"], ["eanet_cifar10O.py", "eanet_cifar10"]),
        (["--config=README.md"], ["README.md"]),
        (["--config=configs/vit_cifar100.py:wide"], ["wide", "per_head"]),
        (["--config.seed=1", TESTING], ["--config.seed=1"]),
        (["--mode=eval"], ["--workdir"]),
        (["--mode=eval", "--workdir=/nonexistent"], ["/nonexistent"]),
    ],
)
def test_a_bad_command_gets_one_clear_line(run_main, arguments, parts):
    assert_refused(run_main(*arguments), *parts)


def test_a_workdir_of_another_config_is_left_alone(finished, run_main):
    workdir, _ = finished
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    done = run_main(TESTING, "--config.model.memory_size=4", f"--workdir={workdir}")
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
        ({"model.depth": 1}, "model.depth is 2 in the checkpoint and 1 here", "blocks/1/"),
        ({"model.depth": 3}, "model.depth is 2 in the checkpoint and 3 here", "blocks/2/"),
        ({"model.num_heads": 4, "model.head_dim": 4}, "model.num_heads is 2 in", "query_bias"),
        ({"model.attention": "self"}, "model.attention is external in", "attention/"),
        ({"model.patch_size": 2}, "patches (model.patch_size) is 4 in", "position_embedding"),
        ({"model.param_dtype": "bfloat16"}, "model.param_dtype is float32 in", "bfloat16["),
        ({"optimizer.ema_decay": 0.0}, "optimizer.ema_decay is above 0 in", "ema/"),
        ({"optimizer.name": "sgd"}, "", "opt_state/"),
        (
            {"dataset.name": "folder"},
            "classes (dataset.name) is 10 in the checkpoint and 3",
            "head/",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_whole(edited, tmp_path, changes, told, tensor):
    if "dataset.name" in changes:
        write_folder(tmp_path, {f"train/{c}": 30 for c in "abc"} | {"test/a": 1}, (8, 8, 1))
        changes = {"dataset.name": f"folder:{tmp_path}"}
    workdir, config = edited(changes)
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    for start in (lambda: train.evaluate(workdir), lambda: train.train(config, workdir)):
        with pytest.raises(UserError, match="does not fit this config") as refusal:
            start()
        for part in (told, tensor, "use the config it was trained with"):
            assert part in str(refusal.value)
    assert before == {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def test_evaluation_refuses_what_is_not_there(finished, run_main, tmp_path):
    workdir, _ = finished
    assert_refused(run_main("--mode=eval", f"--workdir={workdir}", "--checkpoint=7"), "7")
    (tmp_path / "config.json").write_text("{")
    assert_refused(run_main("--mode=eval", f"--workdir={tmp_path}"), "config.json")
    config = json.loads((workdir / "config.json").read_text())
    for damaged in (config | {"dataset": 3}, {"model": {}}, config | {"batch_size": "many"}):
        (tmp_path / "config.json").write_text(json.dumps(damaged))
        assert_refused(run_main("--mode=eval", f"--workdir={tmp_path}"), "config.json")


def test_a_workdir_that_cannot_be_made_is_one_line(run_main, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(run_main(TESTING, f"--workdir={tmp_path}/file/run"), "file")
