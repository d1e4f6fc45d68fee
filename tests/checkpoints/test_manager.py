"""Checkpoints come back byte for byte or not at all, whatever happens to the disk."""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eanet.checkpoints import manifest as manifest_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError

ROOT = Path(__file__).parents[2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    ema: dict | None
    metrics: dict


def make_state(seed: int = 0, width: int = 16, **extra) -> State:
    random_numbers = np.random.default_rng(seed)

    def fill(x):
        return jnp.asarray((100 * random_numbers.standard_normal(x.shape)).astype(x.dtype))

    params = {
        "blocks": {
            0: {"kernel": np.empty((8, width), np.float32)},
            1: {"kernel": np.empty((width, 4), jnp.bfloat16)},
        },
        "head": {"bias": np.empty(width, np.float32)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    opt_state = jax.eval_shape(optimizer.init, params)
    shapes = State(jnp.int32(0), params, opt_state, None, {"loss": jnp.float32(0)})
    state = jax.tree.map(fill, shapes)
    return dataclasses.replace(state, params={**state.params, **extra})


def like(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def as_bytes(state):
    # Copied: np.asarray would keep the buffer alive and so prevent the donation under test.
    return [
        (x.dtype.name, x.shape, np.array(x, copy=True).tobytes()) for x in jax.tree.leaves(state)
    ]


def saved(directory: Path, *steps: int) -> dict[int, State]:
    """The states of the kept steps; the first is the best, the last the latest."""
    states = {step: make_state(step) for step in steps}
    with Checkpoints(directory) as checkpoints:
        for step in steps:
            checkpoints.save(step, states[step], val_accuracy=1 / step)
    return states


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def tree_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in files_of(directory)}


@pytest.fixture
def lines():
    return []


@pytest.fixture
def checkpoints(tmp_path, lines):
    with Checkpoints(tmp_path / "checkpoints", log=lines.append) as checkpoints:
        yield checkpoints


def test_round_trip_is_exact(checkpoints):
    special = jnp.array([jnp.nan, -jnp.inf, -0.0, 1e-45, 3.0], jnp.float32)
    state = make_state(3, special=special)
    checkpoints.save(3, state)
    restored = checkpoints.restore(3, like(state))
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
        restored = checkpoints.restore(step, like(state))
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

    restored = checkpoints.restore(1, shape)
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
        kept.append((checkpoints.steps(), checkpoints.best(), checkpoints.latest()))
    assert kept == [
        ([1], None, 1),
        ([2], 2, 2),
        ([2, 3], 2, 3),
        ([2, 4], 2, 4),
        ([2, 5], 2, 5),
        ([6], 6, 6),
    ]
    checkpoints.save(7, state, val_accuracy=float("inf"))
    checkpoints.wait()
    with Checkpoints(checkpoints._files.directory) as another_process:
        assert another_process.best() == 6
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
    assert checkpoints.best() == 6, "the first accuracy of a step stands"
    checkpoints.save(7, second)
    checkpoints.save(6, first)
    assert as_bytes(checkpoints.restore(6, like(first))) == as_bytes(second)


def test_nothing_saved_yet(checkpoints):
    assert checkpoints.restore_newest(like(make_state())) is None
    assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ([], None, None)
    assert not checkpoints._files.directory.exists()
    with pytest.raises(UserError, match=r"no checkpoint in .*train first"):
        checkpoints.find("latest")
    checkpoints.save(1, make_state())
    with pytest.raises(UserError, match="has been validated; ask for the latest"):
        checkpoints.find("best")
    with pytest.raises(UserError, match="not 'newest'"):
        checkpoints.find("newest")
    with pytest.raises(UserError, match=r"no checkpoint of step 2 .*steps there: 1"):
        checkpoints.restore(checkpoints.find("2"), like(make_state()))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damage_to_any_file_is_found_before_use(tmp_path, damage):
    state = saved(tmp_path / "good", 1)[1]
    names = [path.relative_to(tmp_path / "good") for path in files_of(tmp_path / "good")]
    assert len(names) > 5
    for name in names:
        if damage is not Path.unlink and not (tmp_path / "good" / name).stat().st_size:
            continue
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        damage(tmp_path / "bad" / name)
        before = tree_of(tmp_path / "bad")
        with Checkpoints(tmp_path / "bad") as checkpoints:
            with pytest.raises(UserError, match="is damaged") as error:
                checkpoints.restore(1, like(state))
            assert "\n" not in str(error.value)
        assert tree_of(tmp_path / "bad") == before
        shutil.rmtree(tmp_path / "bad")


def test_every_byte_of_a_manifest_matters(tmp_path):
    manifest_lib.seal(tmp_path, {"step": 12, "val_accuracy": 0.5})
    manifest = tmp_path / manifest_lib.MANIFEST
    content = manifest.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        manifest.write_bytes(flipped)
        with pytest.raises(manifest_lib.Damaged):
            manifest_lib.facts_of(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no manifest", "no files", "another's"])
def test_falls_back_to_the_newest_good_one(tmp_path, lines, damage):
    directory = tmp_path / "checkpoints"
    states = saved(directory, 10, 20)
    newest = directory / "20"
    data = max(files_of(newest / "orbax" / "state"), key=lambda path: path.stat().st_size)
    if damage == "truncated":
        truncate(data)
    elif damage == "flipped":
        flip_a_bit(data)
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    elif damage == "no files":
        shutil.rmtree(newest)
        newest.mkdir()
    else:
        shutil.rmtree(newest)
        shutil.copytree(directory / "10", newest)
    before = tree_of(newest)
    with Checkpoints(directory, log=lines.append) as checkpoints:
        step, state = checkpoints.restore_newest(like(states[10]))
        assert (step, as_bytes(state)) == (10, as_bytes(states[10]))
        assert tree_of(directory / "damaged-20") == before, "set aside, nothing deleted"
        assert any("step 20 is damaged" in line for line in lines)
        assert f"set aside as {directory / 'damaged-20'}" in lines
        assert "going on from step 10" in lines
        checkpoints.save(20, states[20])
        assert as_bytes(checkpoints.restore(20, like(states[20]))) == as_bytes(states[20])
    truncate(directory / "20" / "manifest.json")
    with Checkpoints(directory, log=lines.append) as checkpoints:
        assert checkpoints.restore_newest(like(states[10]))[0] == 10
    assert (directory / "damaged-20").exists() and (directory / "damaged-20-2").exists()


def test_without_a_good_one_training_starts_again(tmp_path, lines):
    state = saved(tmp_path / "checkpoints", 10)[10]
    (tmp_path / "checkpoints" / "10" / "manifest.json").unlink()
    with Checkpoints(tmp_path / "checkpoints", log=lines.append) as checkpoints:
        with pytest.raises(UserError, match="10 is damaged"):
            checkpoints.find("latest")
        assert checkpoints.restore_newest(like(state)) is None
        assert "going on from the beginning" in lines[-1]
        checkpoints.save(10, state)
        assert checkpoints.find("latest") == 10


def test_a_damaged_best_is_found_at_the_start_too(tmp_path, lines):
    states = saved(tmp_path / "checkpoints", 10, 20)
    truncate(tmp_path / "checkpoints" / "10" / "orbax" / "state" / "_METADATA")
    with Checkpoints(tmp_path / "checkpoints", log=lines.append) as checkpoints:
        assert checkpoints.restore_newest(like(states[20]))[0] == 20
        assert checkpoints.best() == 20
        assert any("step 10 is damaged" in line for line in lines)


def test_remains_of_killed_saves_and_removals(tmp_path, lines):
    directory = tmp_path / "checkpoints"
    states = saved(directory, 10, 20)
    shutil.copytree(directory / "20", directory / "saving-30")
    (directory / "saving-30" / "manifest.json").unlink()
    shutil.copytree(directory / "10", directory / "removing-5")
    with Checkpoints(directory, log=lines.append) as checkpoints:
        assert checkpoints.steps() == [10, 20]
        assert checkpoints.restore_newest(like(states[20]))[0] == 20
    assert sorted(path.name for path in directory.iterdir()) == ["10", "20", "unfinished-30"]
    assert len(lines) == 1 and "unfinished-30" in lines[0]


def test_a_mismatch_is_refused_by_name_and_touches_nothing(tmp_path):
    directory = tmp_path / "checkpoints"
    states = saved(directory, 10, 20)
    truncate(directory / "20" / "manifest.json")
    before = tree_of(directory)
    with Checkpoints(directory) as checkpoints:
        for restore in [checkpoints.restore_newest, lambda like: checkpoints.restore(10, like)]:
            with pytest.raises(UserError) as error:
                restore(like(make_state(width=32)))
            message = str(error.value)
            assert "params/blocks/0/kernel is float32[8, 16] in the checkpoint" in message
            assert "float32[8, 32] here" in message and "more" in message and "\n" not in message
            with pytest.raises(UserError, match=r"params/new is missing in the checkpoint and"):
                restore(like(make_state(new=jnp.ones(2))))
            with pytest.raises(UserError, match=r"metrics/loss is .* and missing here"):
                restore(like(dataclasses.replace(states[10], metrics={})))
            with pytest.raises(UserError, match=r"step is int32\[\] .* and float32\[\] here"):
                restore(like(dataclasses.replace(states[10], step=jnp.float32(0))))
    assert tree_of(directory) == before


def test_other_programs_and_newer_versions_are_left_alone(tmp_path):
    directory = tmp_path / "checkpoints"
    states = saved(directory, 10)
    content = json.loads((directory / "10" / "manifest.json").read_text())
    newer = directory / "30"
    shutil.copytree(directory / "10", newer)
    manifest_lib.amend(newer, {**content["facts"], "version": 2, "step": 30, "something": "new"})
    foreign = tmp_path / "foreign"
    (foreign / "30").mkdir(parents=True)
    (foreign / "30" / "weights.bin").write_bytes(b"1")
    for place, words in [(directory, r"30 was written by a newer version"), (foreign, "30 is not")]:
        before = tree_of(place)
        with Checkpoints(place) as checkpoints:
            with pytest.raises(UserError, match=words):
                checkpoints.restore_newest(like(states[10]))
            with pytest.raises(UserError, match=words):
                checkpoints.restore(30, like(states[10]))
        assert tree_of(place) == before
    with Checkpoints(foreign) as checkpoints, pytest.raises(UserError, match="30 is not"):
        checkpoints.find("best")


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
    assert as_bytes(checkpoints.restore(1, like(state))) == as_bytes(state)


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
    assert checkpoints.steps() == [2, 3] and checkpoints.best() == 2


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_takes_no_more(checkpoints, lines):
    """A limit on the size of files makes the writes of TensorStore itself fail."""
    state = make_state()
    large = dataclasses.replace(state, ema={"x": jax.random.normal(jax.random.key(0), (300, 300))})
    checkpoints.save(1, state)
    checkpoints.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        checkpoints.save(2, large)
        with pytest.raises(
            UserError, match=r"step 2 could not be saved .*step 1 is intact"
        ) as error:
            checkpoints.wait()
        assert "\n" not in str(error.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert lines == ["checkpoint of step 2 not saved (File too large); trying again"]
    assert [path.name for path in checkpoints._files.directory.iterdir()] == ["1"]
    assert as_bytes(checkpoints.restore(1, like(state))) == as_bytes(state)
    checkpoints.save(3, state)
    checkpoints.wait()
    assert checkpoints.steps() == [3]


class Disk:
    """What of a directory has reached the disk: the contents and names that were synced."""

    def __init__(self, root, monkeypatch, at_sync):
        self.root, self.contents, self.names = root, {}, {}
        fsync = os.fsync

        def record(descriptor):
            at_sync()
            fsync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.is_dir():
                self.names[path.stat().st_ino] = {
                    child.name: (child.is_dir(), child.stat().st_ino) for child in path.iterdir()
                }
            else:
                self.contents[path.stat().st_ino] = path.read_bytes()
            at_sync()

        monkeypatch.setattr(os, "fsync", record)

    def write_image(self, target, *, names_survive):
        """What is found after a loss of power; names may get to the disk before contents do."""
        self._write(target, self.root.stat().st_ino, self.root if names_survive else None)

    def _write(self, target, inode, live):
        target.mkdir()
        names = self.names.get(inode, {})
        if live is not None and live.is_dir():
            names = {c.name: (c.is_dir(), c.stat().st_ino) for c in live.iterdir()}
        for name, (is_directory, child) in names.items():
            if is_directory:
                self._write(target / name, child, None if live is None else live / name)
            else:
                (target / name).write_bytes(self.contents.get(child, b""))


@pytest.mark.parametrize("names_survive", [False, True])
def test_a_loss_of_power_costs_no_finished_checkpoint(tmp_path, monkeypatch, names_survive):
    """The power goes before and after every sync of the second save."""
    root, images = tmp_path / "run", tmp_path / "images"
    for directory in (root, images):
        directory.mkdir()

    def lose_power():
        if armed:
            disk.write_image(images / str(len(list(images.iterdir()))), names_survive=names_survive)

    armed, states = False, {step: make_state(step) for step in (1, 2)}
    disk = Disk(root, monkeypatch, lose_power)
    with Checkpoints(root / "checkpoints") as checkpoints:
        checkpoints.save(1, states[1])
        checkpoints.wait()
        armed = True
        checkpoints.save(2, states[2])
        checkpoints.wait()
        lose_power()
    monkeypatch.undo()
    found = []
    for image in sorted(images.iterdir(), key=lambda path: int(path.name)):
        with Checkpoints(image / "checkpoints", log=lambda line: None) as checkpoints:
            step, state = checkpoints.restore_newest(like(states[1]))
        assert as_bytes(state) == as_bytes(states[step])
        found.append(step)
    assert found == sorted(found) and found[0] == 1 and found[-1] == 2 and len(found) > 10


def test_an_impossible_and_a_vanished_directory(tmp_path):
    (tmp_path / "file").write_text("")
    state = make_state()
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    with checkpoints, pytest.raises(UserError, match="Not a directory"):
        checkpoints.save(1, state)
    (tmp_path / "run").mkdir()
    with Checkpoints(tmp_path / "run" / "checkpoints", log=lambda line: None) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        shutil.rmtree(tmp_path / "run")
        checkpoints.save(2, state)
        with pytest.raises(UserError, match="No such file or directory"):
            checkpoints.wait()
    assert not (tmp_path / "run").exists()


def test_everything_is_on_the_disk_before_it_gets_its_name(checkpoints, monkeypatch):
    """What a loss of power may take is what was not synced."""
    synced, missing = set(), []
    sync, rename = os.fsync, Path.rename

    def recording_sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def checking_rename(path, target):
        everything = [path, *path.rglob("*")]
        if target.name.startswith("removing"):
            everything = [path.parent]
        missing.extend(p for p in everything if p.stat().st_ino not in synced)
        synced.discard(path.parent.stat().st_ino)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recording_sync)
    monkeypatch.setattr(Path, "rename", checking_rename)
    checkpoints.save(1, make_state())
    checkpoints.save(2, make_state())
    checkpoints.wait()
    assert synced and not missing
    assert checkpoints.steps() == [2]


SAVE_FOREVER = """
import sys
import threading
import time
import jax.numpy as jnp
from eanet.checkpoints.manager import Checkpoints

checkpoints = Checkpoints(sys.argv[1])
like = {"x": jnp.zeros(20_000), "step": jnp.int32(0)}
newest = checkpoints.restore_newest(like)
step = newest[0] if newest else 0
print("start", step, flush=True)
while True:
    step += 1
    state = {"x": jnp.full(20_000, step, jnp.float32), "step": jnp.int32(step)}
    checkpoints.save(step, state, val_accuracy=step % 7)
    checkpoints.wait()
    print("saved", step, flush=True)
"""


def kill_repeatedly(directory: Path, kills: int) -> None:
    chance = random.Random(0)
    template = {"x": jnp.zeros(20_000), "step": jnp.int32(0)}
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(chance.randint(1, 4)):
            process.stdout.readline()
        try:
            process.wait(chance.uniform(0, 0.2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        out, errors = process.communicate()
        assert errors == "", "Orbax must stay off the terminal"
        confirmed = [int(line.split()[1]) for line in out.splitlines() if line.startswith("saved")]
        lines = []
        with Checkpoints(directory, log=lines.append) as checkpoints:
            newest = checkpoints.restore_newest(template)
        assert not [line for line in lines if "damaged" in line], "a kill leaves no damage"
        if confirmed:
            assert newest[0] >= confirmed[-1]
        if newest:
            assert newest[1]["step"] == newest[0]
            assert set(np.asarray(newest[1]["x"]).tolist()) == {float(newest[0])}


def test_killed_while_saving(tmp_path):
    kill_repeatedly(tmp_path / "checkpoints", 2)


@pytest.mark.slow
def test_killed_while_saving_many_times(tmp_path):
    kill_repeatedly(tmp_path / "checkpoints", 8)


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
