"""What is damaged, foreign, or does not fit is never used, and never lost."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import pytest

from eanet.checkpoints import manifest as manifest_lib
from eanet.checkpoints import storage
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from tests.helpers.checkpoint_cases import (
    as_bytes,
    files_of,
    flip_a_bit,
    like,
    make_state,
    saved,
    tree_of,
    truncate,
)


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
            manifest_lib.metadata_of(tmp_path)


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
        step, state, _ = checkpoints.restore_newest(like(states[10]))
        assert (step, as_bytes(state)) == (10, as_bytes(states[10]))
        assert tree_of(directory / "damaged-20") == before, "set aside, nothing deleted"
        assert any("step 20 is damaged" in line for line in lines)
        assert f"set aside as {directory / 'damaged-20'}" in lines
        assert "going on from step 10" in lines
        checkpoints.save(20, states[20])
        assert as_bytes(checkpoints.restore(20, like(states[20]))[1]) == as_bytes(states[20])
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
        assert checkpoints.find("best") == 20
        assert any("step 10 is damaged" in line for line in lines)


def test_remains_of_killed_saves_and_removals(tmp_path, lines):
    directory = tmp_path / "checkpoints"
    states = saved(directory, 10, 20)
    shutil.copytree(directory / "20", directory / "saving-30")
    (directory / "saving-30" / "manifest.json").unlink()
    shutil.copytree(directory / "10", directory / "removing-5")
    for name in ("unfinished-30", "unfinished-30-2", "unfinished-mine"):  # as older versions did
        (directory / name).mkdir()
    with Checkpoints(directory, log=lines.append) as checkpoints:
        assert checkpoints.steps() == [10, 20]
        assert checkpoints.restore_newest(like(states[20]))[0] == 20
    assert sorted(path.name for path in directory.iterdir()) == ["10", "20", "unfinished-mine"]
    assert len(lines) == 1
    assert "killed saves of checkpoints left: saving-30, unfinished-30, unfinished-30-2" in lines[0]


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
    manifest_lib.amend(newer, {**content["facts"], "version": 3, "step": 30, "something": "new"})
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


def make_odd(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_away(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "gone")


@pytest.mark.parametrize("odd", [make_odd, link_away, lambda path: (path.unlink(), path.mkdir())])
@pytest.mark.parametrize("name", ["manifest.json", "orbax/state/_METADATA"])
def test_what_is_no_file_is_damage_and_keeps_nobody_waiting(tmp_path, lines, odd, name):
    states = saved(tmp_path / "c", 10, 20)
    odd(tmp_path / "c" / "20" / name)
    with Checkpoints(tmp_path / "c", log=lines.append) as checkpoints:
        with pytest.raises(UserError, match="20 is damaged"):
            checkpoints.restore("20", like(states[20]))
        assert checkpoints.restore_newest(like(states[20]))[0] == 10


@pytest.mark.parametrize("which", ["best", "latest"])
def test_nothing_takes_the_place_of_a_checkpoint_whose_manifest_is_damaged(tmp_path, which):
    """Only training goes on from another one."""
    states = saved(tmp_path / "c", 10, 20)
    meant = {"best": "10", "latest": "20"}[which]
    truncate(tmp_path / "c" / meant / "manifest.json")
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(UserError, match=rf"{meant} is damaged .*another by its step"):
            checkpoints.restore(which, like(states[10]))
        other = {"best": 20, "latest": 10}[which]
        step, state = checkpoints.restore(str(other), like(states[10]))
    assert (step, as_bytes(state)) == (other, as_bytes(states[other]))


def test_the_best_is_unknown_where_any_manifest_is_damaged_and_the_latest_is_not(tmp_path):
    states = saved(tmp_path / "c", 10, 20)
    (tmp_path / "c" / "15").mkdir()
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(UserError, match="15 is damaged"):
            checkpoints.restore("best", like(states[10]))
        assert checkpoints.restore("latest", like(states[10]))[0] == 20


@pytest.mark.parametrize("which", ["best", "latest"])
@pytest.mark.parametrize("moment", ["verify", "load"])
def test_a_checkpoint_removed_while_it_is_read_gives_way_to_the_next(
    tmp_path, monkeypatch, which, moment
):
    """Training saves a better one meanwhile, as often as three times."""
    states, later = saved(tmp_path / "c", 1), iter((2, 3, 4))
    module = {"verify": manifest_lib, "load": storage}[moment]
    real = getattr(module, moment)

    def overtaken(*arguments):
        if (step := next(later, None)) is not None:
            with Checkpoints(tmp_path / "c") as training:
                training._has_read_back = True
                states[step] = make_state(step)
                training.save(step, states[step], val_accuracy=1 + step)
        return real(*arguments)

    monkeypatch.setattr(module, moment, overtaken)
    with Checkpoints(tmp_path / "c") as checkpoints:
        step, state = checkpoints.restore(which, like(states[1]))
        assert (step, as_bytes(state)) == (4, as_bytes(states[4]))
        with pytest.raises(UserError, match=r"no checkpoint of step 1 .* steps there: 4"):
            checkpoints.restore(1, like(states[1]))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM, errno.ESTALE])
def test_what_the_system_refuses_for_now_is_not_taken_for_damage(tmp_path, monkeypatch, number):
    states = saved(tmp_path / "c", 10, 20)
    before, opened = tree_of(tmp_path / "c"), manifest_lib.open_regular

    def refuse(path, **options):
        if path.name != "manifest.json":
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, **options)

    monkeypatch.setattr(manifest_lib, "open_regular", refuse)
    with Checkpoints(tmp_path / "c", log=pytest.fail) as checkpoints:
        for restore in (checkpoints.restore_newest, lambda like: checkpoints.restore(20, like)):
            with pytest.raises(UserError, match=f"cannot read .*{os.strerror(number)}"):
                restore(like(states[20]))
    assert tree_of(tmp_path / "c") == before


@pytest.mark.parametrize("name", ["../20/orbax/x", "/etc/hostname", "..", "", "a\0b"])
def test_a_manifest_names_no_file_of_another_place(tmp_path, name):
    (tmp_path / "file").write_text("")
    manifest_lib.seal(tmp_path, {})
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["files"] = {name: content["files"]["file"]}
    manifest_lib._write(tmp_path, {key: content[key] for key in ("facts", "files")})
    with pytest.raises(manifest_lib.Damaged, match="not what was written"):
        manifest_lib.verify(tmp_path)
