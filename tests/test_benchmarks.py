"""The benchmarks' parts, and each once from end to end, small; nothing here depends on speed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import contest, memory, pictures
from benchmarks.cases import CASES, OURS, PEERS
from benchmarks.contest import ROOT, Failed, Worker
from benchmarks.hlo import DEVICES, OTHER, PARTS, Program
from benchmarks.pictures import PICTURES
from benchmarks.scaling import crossing
from configs import eanet_cifar100
from eanet.errors import UserError
from eanet.models.layers import LayerNorm, dropout
from eanet.prng import random_key
from tests.helpers import plain
from tests.helpers.compiler import QUICKLY_COMPILED


def test_a_worker_works_when_asked():
    worker = Worker(sys.executable, "tests.helpers.waiting_contestant", {}, {})
    assert worker.ready["parameters"] == 7 and worker.ready["facts"] == {"colour": "blue"}
    for seconds in (0.02, 0.1):
        assert 10 < worker.images_per_second(seconds) <= 300  # three in a hundredth of a second
    assert worker.peak_memory() is None or worker.peak_memory() > 1e6
    worker.stop()


def test_a_worker_that_fails_says_why():
    with pytest.raises(Failed, match="exit code 1: no such backend"):
        Worker(sys.executable, "tests.helpers.waiting_contestant", {"fails": True}, {})


def test_all_take_one_turn_a_round_in_changing_order():
    log = []

    def measure(name):
        log.append(name)
        return float(len(log))

    measured = contest.interleave(["a", "b", "c"], measure, rounds=20, seed=0)
    orders = [tuple(log[start : start + 3]) for start in range(0, 60, 3)]
    assert {frozenset(order) for order in orders} == {frozenset("abc")} and len(set(orders)) > 2
    for name, values in measured.items():
        assert values == [i + 1.0 for i, logged in enumerate(log) if logged == name]


def test_statistics():
    assert contest.spread([1, 2, 3, 4, 100]) == {"median": 3, "lower": 2, "upper": 4}
    ratios = contest.ratios([10, 20, 90], [5, 10, 15])
    assert ratios == {"of_medians": 2.0, "median_over_rounds": 2.0}
    assert contest.spread([5.0]) == {"median": 5, "lower": 5, "upper": 5}


def test_measuring_on_a_gpu_needs_one():
    """It is said before anything is installed."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    done = subprocess.run(["make", "-s", "bench-gpu"], cwd=ROOT, capture_output=True, text=True)
    told, of_make = done.stderr.splitlines()
    assert told == "make bench-gpu measures on an NVIDIA GPU; there is none here"
    assert done.returncode == 2 and of_make.startswith("make") and not done.stdout
    assert not (ROOT / ".venv-gpu").exists()


def test_cases_change_the_config_and_nothing_else():
    config = eanet_cifar100.get_config()
    before = config.to_json()
    ours, peer = OURS["eanet"], PEERS["torch"]
    plain = CASES["train_no_dropout"].task(config, ours)["config"]
    assert plain["model"]["dropout_rate"] == 0.0 and not any(plain["augment"].values())
    assert CASES["train_augmented"].task(config, ours)["config"] == config.to_dict()
    wide = CASES["batch_sizes"].contestants["batch_size 512"]
    assert CASES["batch_sizes"].task(config, wide)["config"]["batch_size"] == 512
    own = CASES["self_attention"]
    assert list(own.contestants) == ["eanet", "torch", "torch-compile"]
    assert own.task(config, peer)["config"]["model"]["attention"] == "self"
    assert own.lacks(config, peer) is None
    assert config.to_json() == before
    assert CASES["train"].lacks(config, peer) is None
    assert CASES["train_augmented"].lacks(config, peer) == "no augmentation"
    config.model.dtype = "bfloat16"
    assert CASES["train"].lacks(config, peer) == "no model.dtype=bfloat16"
    assert CASES["train"].lacks(config, ours) is None


@pytest.mark.parametrize(
    "slower, expected", [(1.0, "512"), (0.01, "at most 64"), (1e6, "more than 16,384")]
)
def test_where_curves_cross(slower, expected):
    """A quadratic one and a linear one that is `slower` times what meets it at 512 tokens."""
    tokens = [64, 256, 1024, 4096, 16_384]
    own = [{"tokens": n, "work": n * n} for n in tokens]
    external = [{"tokens": n, "work": slower * 512 * n} for n in tokens]
    assert crossing(external, own, "work") == expected


def test_instructions_belong_to_the_function_they_come_from():
    norm = LayerNorm(64)

    def function(x, kernel, keys):
        def loss(x):
            return (dropout(norm(x), 0.5, keys) @ kernel).sum()

        return jax.grad(loss)(x)

    x, keys = np.zeros((64, 8, 256), np.float32), jax.random.split(random_key(0), 8)
    kernel = np.zeros((256, 64), np.float32)
    program = Program(jax.jit(function).lower(x, kernel, keys).compile().as_text())
    parts = {program.part(name) for name in program.instructions}
    assert {"dropout", "layer norms", OTHER} <= parts <= {*PARTS, OTHER}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_drawn_anew_from_their_records(tmp_path, name):
    recorded = next((ROOT / "docs/performance").rglob(f"{name}.json"))
    shutil.copy(recorded, tmp_path)
    pictures.main([str(tmp_path / recorded.name), "--figures=png,pdf"], "pictures")
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    (tmp_path / recorded.name).write_text("[]")
    with pytest.raises(UserError, match=f"{name}.json is no record of throughput, "):
        pictures.main([str(tmp_path / recorded.name)], "pictures")


@pytest.mark.slow
def test_the_memory_of_a_process_and_of_what_it_started_is_seen():
    code = """
import subprocess, sys, threading, time
keep = b"x" * 300_000_000
child = "import time; keep = b'x' * 100_000_000; time.sleep(3)"
threading.Thread(target=lambda: subprocess.run([sys.executable, "-c", child])).start()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    points = memory.watch(process)
    assert max(point["resident"] for point in points) > 300
    assert max(point["counted"] for point in points) > 300
    assert 100 < max(point["workers"] for point in points) < 300
    failing = [sys.executable, "-c", "raise SystemExit('no memory')"]
    with pytest.raises(UserError, match="code 1: no memory"):
        memory.watch(subprocess.Popen(failing, stderr=subprocess.PIPE, text=True))


def test_a_limit_that_holds_all_images_is_refused():
    command = [sys.executable, "-m", "benchmarks.streaming_memory", "--photos=100", "--limit=600"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: --photos=100 are 15 MB, within --limit\n"


def run(module, tmp_path, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments, f"--out={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | QUICKLY_COMPILED,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / f"{module}.json").read_text(), parse_constant=pytest.fail)
    assert (tmp_path / f"{module}.png").stat().st_size > 5000
    assert {"device", "versions", "git_commit", "cores", "command"} <= set(record)
    assert done.stderr == ""
    return record, done.stdout


@pytest.mark.slow
def test_throughput(tmp_path):
    record, said = run(
        "throughput", tmp_path, *plain.ARGUMENTS,
        "--config.augment.rotation=0.1", "--config.batch_size=4",
        "--cases=train_augmented,dtypes", "--peers=torch", "--rounds=2", "--seconds=0.01",
    )  # fmt: skip
    assert record["cases"]["train_augmented"]["skipped"] == {"torch": "it has no augmentation"}
    assert "torch is skipped" in said
    types = record["cases"]["dtypes"]["contestants"]
    assert list(types) == ["dtype float32", "dtype bfloat16"]
    for contestant in types.values():
        assert len(contestant["images_per_second"]) == 2 and contestant["median"] > 0
        assert contestant["parameters"] > 1000 and "host_settings" in contestant["facts"]


@pytest.mark.slow
def test_scaling(tmp_path):
    record, said = run("scaling", tmp_path, "--tokens=64,256", "--units=4", "--rounds=1")
    assert len(record["points"]) == 8 and "S = 4" in said
    for point in record["points"]:
        assert min(point["milliseconds"], point["megabytes"], point["multiply_adds"]) > 0


@pytest.mark.slow
def test_ensemble(tmp_path):
    record, said = run(
        "ensemble", tmp_path, *plain.ARGUMENTS, "--members=3", "--rounds=2", "--seconds=0.01"
    )
    alone, together = record["programs"].values()
    assert min(alone["median"], together["median"]) > 0 and "3 seeds at once" in said
    assert len(together["rounds"]) == 2


@pytest.mark.slow
def test_startup(tmp_path):
    record, _ = run("startup", tmp_path, *plain.ARGUMENTS, "--rounds=1")
    cold, warm = (record["seconds"][cache] for cache in ("cold", "warm"))
    parts = [value["median"] for part, value in cold.items() if "in all" not in part]
    assert sum(parts) == pytest.approx(cold["parts, in all"]["median"])
    assert set(cold) == set(warm) and cold["main.py, in all"]["median"] > 0


@pytest.mark.slow
def test_profile(tmp_path):
    record, _ = run(
        "profile", tmp_path, "--config=configs/testing.py", "--config.model.local_mixing=True",
        "--steps=2",
    )  # fmt: skip
    parts = record["seconds_of_parts"]
    # A function that was renamed would no longer be found: none of these may lack all time.
    missing = [part for part in set(PARTS) - {OTHER, "residual sums", DEVICES} if not parts[part]]
    assert not missing
    assert parts.get(OTHER, 0) < 0.3 * record["seconds"]  # loops, of so small a model
    assert sum(parts.values()) < 1.05 * record["seconds"]
