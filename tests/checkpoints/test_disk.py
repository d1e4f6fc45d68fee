"""Whatever the disk, the power or a kill does: a checkpoint is whole or not there."""

import dataclasses
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet.checkpoints import layout
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from tests.helpers.checkpoint_cases import (
    as_bytes,
    like,
    make_state,
)

ROOT = Path(__file__).parents[2]


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
    assert as_bytes(checkpoints.restore(1, like(state))[1]) == as_bytes(state)
    checkpoints.save(3, state)
    checkpoints.wait()
    assert checkpoints.steps() == [3]


def test_what_is_still_being_written_when_a_save_fails_is_removed_too(tmp_path, monkeypatch):
    """Another thread of the library adds a file while the directory is removed."""
    files = layout.CheckpointFiles(tmp_path / "checkpoints")
    rmtree, late = shutil.rmtree, ["late", "later"]

    def removed(path, **options):
        if late and path.exists():
            (path / layout.STATE / late.pop()).write_bytes(b"x")
        else:
            rmtree(path, **options)

    def fail(path):
        path.mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(shutil, "rmtree", removed)
    with pytest.raises(OSError, match="disk full"):
        files.write(layout.Metadata(2, None, {}), fail)
    assert not late and not list(files.directory.iterdir())


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
            step, state, _ = checkpoints.restore_newest(like(states[1]))
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


@pytest.mark.slow
def test_killed_while_saving(tmp_path):
    kill_repeatedly(tmp_path / "checkpoints", 2)


@pytest.mark.slow
def test_killed_while_saving_many_times(tmp_path):
    kill_repeatedly(tmp_path / "checkpoints", 8)
