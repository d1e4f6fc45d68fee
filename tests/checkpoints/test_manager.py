"""Checkpoints come back byte for byte, the latest and the best of them."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.checkpoints import manifest as manifest_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from tests.helpers.checkpoint_cases import (
    as_bytes,
    files_of,
    like,
    make_state,
    saved,
)

ROOT = Path(__file__).parents[2]


def test_round_trip_is_exact(checkpoints):
    special = jnp.array([jnp.nan, -jnp.inf, -0.0, 1e-45, 3.0], jnp.float32)
    state = make_state(3, special=special)
    checkpoints.save(3, state)
    _, restored = checkpoints.restore(3, like(state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert as_bytes(restored) == as_bytes(state)
    assert [x.sharding for x in jax.tree.leaves(restored)] == [
        x.sharding for x in jax.tree.leaves(state)
    ]


def test_sharded_over_two_devices(checkpoints):
    if jax.device_count() < 2:
        pytest.skip("needs jax_num_cpu_devices=2")
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    for step, axes in enumerate([spec(), spec("batch")]):
        sharding = jax.sharding.NamedSharding(mesh, axes)
        # Many, as jax aliases memory only where it happens to be aligned.
        arrays = {str(i): np.arange(64.0 + 2 * i, dtype=np.float32) for i in range(40)}
        state = jax.device_put(arrays, sharding)
        checkpoints.save(step, state)
        _, restored = checkpoints.restore(step, like(state))
        assert as_bytes(restored) == as_bytes(state)
        for array in restored.values():
            assert array.sharding == sharding
            first, second = (s.data.unsafe_buffer_pointer() for s in array.addressable_shards)
            assert first != second


@pytest.mark.parametrize("devices", [1, 2])
def test_donated_updates_touch_neither_what_is_saved_nor_what_was_restored(checkpoints, devices):
    if jax.device_count() < devices:
        pytest.skip("needs jax_num_cpu_devices=2")
    mesh = jax.make_mesh(
        (devices,), ("batch",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
    )
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    update = jax.jit(
        lambda state: jax.tree.map(lambda x: x * 2 + 1, state),
        donate_argnums=0,
        out_shardings=replicated,
    )
    expected = {"a": np.arange(2.0**18, dtype=np.float32) / 7, "b": np.float32(3)}
    state = jax.jit(lambda: jax.tree.map(jnp.asarray, expected), out_shardings=replicated)()
    shape = like(state)

    checkpoints.save(1, state)
    buffer = state["a"].addressable_shards[0].data.unsafe_buffer_pointer()
    updated = update(state)
    assert state["a"].is_deleted(), "saving must not hold the buffers that the step reuses"
    assert updated["a"].addressable_shards[0].data.unsafe_buffer_pointer() == buffer

    _, restored = checkpoints.restore(1, shape)
    assert as_bytes(restored) == as_bytes(expected)
    for _ in range(3):
        restored = update(restored)
        expected = jax.tree.map(lambda x: x * np.float32(2) + np.float32(1), expected)
    for shard in restored["a"].addressable_shards:
        np.testing.assert_array_equal(shard.data, expected["a"])


def test_keeps_the_latest_and_the_best(checkpoints):
    state = make_state()
    kept = []
    for step, accuracy in [(1, None), (2, 0.5), (3, 0.5), (4, None), (5, float("nan")), (6, 0.7)]:
        checkpoints.save(step, state, val_accuracy=accuracy)
        checkpoints.wait()
        kept.append((checkpoints.steps(), checkpoints.find("best"), checkpoints.find("latest")))
    assert kept == [
        ([1], 1, 1),
        ([2], 2, 2),
        ([2, 3], 2, 3),
        ([2, 4], 2, 4),
        ([2, 5], 2, 5),
        ([6], 6, 6),
    ]
    checkpoints.save(7, state, val_accuracy=float("inf"))
    checkpoints.wait()
    with Checkpoints(checkpoints._files.directory) as another_process:
        assert another_process.steps() == [6, 7]
        assert (another_process.find("best"), another_process.find("latest")) == (6, 7)
    assert sorted(p.name for p in checkpoints._files.directory.iterdir()) == ["6", "7"]


def test_saving_a_step_again_only_adds_its_accuracy(checkpoints):
    first, second = make_state(1), make_state(2)
    checkpoints.save(5, first)
    checkpoints.save(5, second, val_accuracy=0.25)
    checkpoints.save(5, second, val_accuracy=0.75)
    checkpoints.save(6, second, val_accuracy=0.5)
    checkpoints.wait()
    assert checkpoints.find("best") == 6, "the first accuracy of a step stands"
    checkpoints.save(7, second)
    checkpoints.save(6, first)
    assert as_bytes(checkpoints.restore(6, like(first))[1]) == as_bytes(second)


def test_nothing_saved_yet(checkpoints):
    assert checkpoints.restore_newest(like(make_state())) is None
    assert checkpoints.steps() == []
    assert not checkpoints._files.directory.exists()
    with pytest.raises(UserError, match=r"no checkpoint in .*train first"):
        checkpoints.find("latest")
    checkpoints.save(1, make_state())
    assert checkpoints.find("best") == 1, "nothing was held out for validation"
    with pytest.raises(UserError, match="not 'newest'"):
        checkpoints.find("newest")
    with pytest.raises(UserError, match=r"no checkpoint of step 2 .*steps there: 1"):
        checkpoints.restore("2", like(make_state()))


def test_a_save_that_fails_once_is_repeated(checkpoints, lines, monkeypatch):
    rename, failures = Path.rename, [OSError(28, "No space left on device")]

    def rename_failing_once(path, target):
        if failures:
            raise failures.pop()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_failing_once)
    state = make_state()
    checkpoints.save(1, state)
    checkpoints.wait()
    assert lines == [
        "checkpoint of step 1 not saved (No space left on device); trying again",
        "checkpoint of step 1 saved",
    ]
    assert as_bytes(checkpoints.restore(1, like(state))[1]) == as_bytes(state)


@pytest.fixture
def slow_disk(monkeypatch):
    """Saves wait until the event is set."""
    free, seal = threading.Event(), manifest_lib.seal
    monkeypatch.setattr(manifest_lib, "seal", lambda *a: (free.wait(60), seal(*a)))
    return free


def test_on_a_slow_disk_a_newer_save_takes_the_place_of_the_one_that_waits(checkpoints, slow_disk):
    """So that training never waits for the disk; only what was validated is never passed over."""
    began = time.monotonic()
    for step in (1, 2, 3, 4):
        checkpoints.save(step, make_state(step))
    assert time.monotonic() - began < 30
    slow_disk.set()
    checkpoints.wait()
    assert checkpoints.steps() == [4]


def test_a_validated_save_is_not_passed_over(checkpoints, slow_disk):
    checkpoints.save(1, make_state(1))
    checkpoints.save(2, make_state(2), val_accuracy=0.5)
    threading.Timer(0.5, slow_disk.set).start()
    checkpoints.save(3, make_state(3))  # waits for step 1
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3] and checkpoints.find("best") == 2


def test_arrays_are_every_tensor_by_name(tmp_path):
    states = saved(tmp_path / "c", 1)
    with Checkpoints(tmp_path / "c") as checkpoints:
        arrays = checkpoints.arrays(1)
        manifest = json.loads((tmp_path / "c/1/manifest.json").read_text())
        assert sorted(arrays) == sorted(manifest["facts"]["tensors"])
        kernel = arrays["params/blocks/0/kernel"]
        assert kernel.tobytes() == np.asarray(states[1].params["blocks"][0]["kernel"]).tobytes()
        file = next(path for path in files_of(tmp_path / "c/1/orbax") if path.stat().st_size > 100)
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(UserError, match="damaged"):
            checkpoints.arrays(1)


def test_quiet_even_where_the_log_is_verbose(tmp_path):
    program = """
import asyncio
import resource
import sys
import threading
import time
from absl import app, logging

async def fail_unobserved():
    async def fail():
        raise ValueError("of a task")
    asyncio.ensure_future(fail())
    asyncio.get_running_loop().create_future().set_exception(ValueError("of a future"))
    await asyncio.sleep(0)

def main(_):
    import jax.numpy as jnp
    from eanet.checkpoints.manager import Checkpoints
    from eanet.errors import UserError
    with Checkpoints(sys.argv[1]) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
        checkpoints.restore(1, {"x": jnp.ones(3)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        large = jnp.arange(300.0) ** 0.3
        checkpoints.save(2, {str(i): large for i in range(50)})
        try:
            checkpoints.wait()
        except UserError as error:
            assert "File too large" in str(error)
    # Of the arrays of a failed save as many fail as had begun; what asyncio says of them is luck.
    asyncio.run(fail_unobserved())
    logging.info("our own line")

logging.set_verbosity(logging.INFO)
app.run(main)
"""
    process = subprocess.run(
        [sys.executable, "-W", "default", "-c", program, str(tmp_path / "checkpoints")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("\n") == 1 and "trying again" in process.stdout
    others = [line for line in process.stderr.splitlines() if "xla_bridge" not in line]
    assert len(others) == 1 and "our own line" in others[0], process.stderr


def logged(*validated):
    """What a run logs that has so many percent on validation after each of so many steps."""
    lines = [
        {"step": step, "epoch": 1.0, "split": "val", "accuracy": percent / 100, "loss": 1.0}
        for step, percent in validated
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize("lost", ["removed", "a file", "a dangling link", "set aside"])
def test_the_best_of_those_that_are_left_is_not_taken_for_the_best(
    checkpoints, lines, lost, tmp_path
):
    validated = ((10, 50), (20, 40))
    for place, (step, percent) in enumerate(validated, 1):
        checkpoints.save(
            step, make_state(step), val_accuracy=percent / 100, history=logged(*validated[:place])
        )
    assert checkpoints.find("best") == 10 and checkpoints.find("latest") == 20
    path = tmp_path / "checkpoints" / "10"
    if lost == "set aside":
        path.rename(path.with_name("damaged-10"))
        assert checkpoints.find("best") == 20
        assert "step 10, the best on validation with 50.00 %, was damaged" in lines[-1]
        return
    shutil.rmtree(path)
    if lost == "a file":
        path.write_text("")
    if lost == "a dangling link":
        path.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"step 10, the best .* with 50\.00 %, is not in .*latest"):
        checkpoints.find("best")
    assert checkpoints.find("latest") == checkpoints.find(20) == 20
