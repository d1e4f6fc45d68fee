"""Images that stay in their files: the same as decoded ones in all that one sees of them."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest
from PIL import Image

from eanet.data import base, workers
from eanet.data.load import load_dataset, load_part
from eanet.data.stored import StoredImages, ahead
from eanet.errors import UserError
from eanet.workdir.model_record import ModelRecord
from tests.helpers.data_fixtures import random_images, write_folder, write_prepared

SIZES = {"train/a": 21, "train/b": 19, "test/a": 3, "test/b": 5}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(workers, "cores", lambda: 1)  # to start one takes most of the time here


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "shapes", SIZES)
    return tmp_path / "shapes"


def load(name, **options):
    return load_dataset(name, **{"log": lambda line: None} | options)


def children():
    """The processes that decode for this one."""
    return [
        child for child in psutil.Process().children()
        if any("eanet.data.worker" in word for word in child.cmdline())
    ]  # fmt: skip


def assert_same(streamed, decoded):
    for part in ("train", "val", "test"):
        one, other = getattr(streamed, part), getattr(decoded, part)
        assert isinstance(one.images, StoredImages) and isinstance(other.images, np.ndarray)
        np.testing.assert_array_equal(np.asarray(one.images), other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        for ordered in (True, False):
            prints = [
                base.content_fingerprint(split, decoded.class_names, ordered=ordered)
                for split in (one, other)
            ]
            assert prints[0] == prints[1]
    for name in ("class_names", "image_shape", "fingerprints", "place", "bits", "skipped"):
        assert getattr(streamed, name) == getattr(decoded, name), name
    np.testing.assert_array_equal(streamed.mean, decoded.mean)
    np.testing.assert_array_equal(streamed.std, decoded.std)


@pytest.mark.parametrize(("mixed", "val_split"), [(False, "random"), (True, "last")])
def test_a_streamed_folder_is_the_decoded_one(folder, mixed, val_split):
    options = {"val_split": val_split}
    if mixed:  # in size, in kind, and one that nobody can read
        Image.new("L", (40, 9), 77).save(folder / "train" / "a" / "wide.png")
        (folder / "train" / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnone")
        options |= {"image_size": (8, 7), "resize": "crop", "on_bad_image": "skip"}
    name = f"folder:{folder}"
    streamed = load(name, streaming=True, **options)
    assert_same(streamed, load(name, streaming=False, **options))
    assert streamed.skipped == mixed


@pytest.mark.parametrize(("form", "size"), [("array_record", None), ("tfrecord", (4, 9))])
def test_streamed_records_are_the_decoded_ones(form, size, tmp_path):
    splits = {"train": random_images(40), "test": random_images(7, seed=1)}
    write_prepared(tmp_path, form, splits, shards=3)
    options = {"data_dir": tmp_path, "image_size": size}
    decoded = load("shapes", streaming=False, **options)
    assert_same(load("shapes", streaming=True, **options), decoded)
    part = load_part(
        "shapes", "test", class_names=decoded.class_names, image_shape=decoded.image_shape,
        streaming=True, log=lambda line: None, **options,
    )  # fmt: skip
    np.testing.assert_array_equal(part.split.images, decoded.test.images)


def test_what_half_of_the_memory_does_not_hold_is_streamed_and_looked_at_once(folder, monkeypatch):
    monkeypatch.setattr(base, "physical_memory", lambda: 2 * 6 * 5 * 3 * 47)  # of 48 images
    said, name = [], f"folder:{folder}"
    assert isinstance(load(name, log=said.append).train.images, StoredImages)
    assert any("half of the memory" in line for line in said)
    monkeypatch.setattr("eanet.data.survey._look_at_all", None)
    assert isinstance(load(name).train.images, StoredImages)
    monkeypatch.undo()


def test_images_are_an_array_in_all_that_is_asked_of_them(folder, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 3)
    name = f"folder:{folder}"
    images = load(name, streaming=True).train.images
    array = load(name, streaming=False).train.images
    assert images.shape == array.shape and len(images) == len(array)
    assert images.nbytes == array.nbytes
    mask = np.arange(len(array)) % 3 == 0
    for chosen in (slice(3, 9), slice(None, None, -2), mask):
        assert isinstance(images[chosen], StoredImages)
        np.testing.assert_array_equal(images[chosen], array[chosen])
        np.testing.assert_array_equal(images[chosen][1:][-1], array[chosen][1:][-1])
    for chosen in (4, -1, np.array([5, 5, 0])):
        assert isinstance(images[chosen], np.ndarray)
        np.testing.assert_array_equal(images[chosen], array[chosen])
    requests = [np.array([7, 1]), slice(0, 20), np.array([], int), slice(20, None)]
    for most in (1, 9):
        parts = ahead(images, iter(requests), most)
        for request, part in zip(requests, parts, strict=True):
            np.testing.assert_array_equal(part, array[request])
    assert children() == []


def test_no_more_is_decoded_ahead_than_was_asked_for(folder):
    images, asked = load(f"folder:{folder}", streaming=True).train.images, []

    def requests():
        for start in range(0, 30, 2):
            asked.append(start)
            yield slice(start, start + 2)

    with contextlib.closing(ahead(images, requests(), 3)) as parts:
        assert asked == []
        next(parts)
        assert len(asked) == 4
        next(parts)
        assert len(asked) == 5 and len(children()) > 0
    assert children() == []


def test_one_line_names_the_images_that_cannot_be_read(folder):
    path = folder / "train" / "b" / "\x1b[2Jodd.png"
    whole = next((folder / "train" / "b").glob("*.png")).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot be read.*x1b\[2Jodd.png.*on_bad_image=skip"):
        load(f"folder:{folder}", streaming=True)
    path.unlink()
    images = load(f"folder:{folder}", streaming=True, val_fraction=0).train.images
    other, changed = (folder / "train" / "b" / f"{number}.png" for number in (0, 1))
    before = changed.read_bytes()
    changed.write_bytes(other.read_bytes())
    for look in (np.asarray, lambda images: list(ahead(images, [slice(None)], 1))):
        with pytest.raises(UserError, match=f"{changed} has changed since the start; put back"):
            look(images)
    changed.write_bytes(before)
    for lost in (folder / "train" / "a").iterdir():
        lost.unlink()
    with pytest.raises(UserError, match=f"{folder}/train/a/.* cannot be read"):
        list(ahead(images, [slice(None)], 1))
    assert children() == []


def test_a_worker_that_dies_is_one_clear_line(folder):
    images = load(f"folder:{folder}", streaming=True).train.images
    with contextlib.closing(ahead(images, [slice(0, 1)] * 1000, 1)) as parts:
        next(parts)
        for child in children():
            child.kill()
        with pytest.raises(UserError, match="decodes images ended with code -9"):
            list(parts)
    assert len(np.asarray(images[:3])) == 3


def test_where_no_worker_can_be_started_one_line_says_why(folder, monkeypatch):
    def refuse(*arguments, **options):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(workers.subprocess, "Popen", refuse)
    with pytest.raises(UserError, match="cannot be started: Resource temporarily unavailable; "):
        load(f"folder:{folder}", streaming=True)


def test_a_worker_that_dies_while_images_are_looked_at_leaves_nothing_behind(folder, tmp_path):
    start = workers._start

    def start_dead(*arguments):
        process = start(*arguments)
        process.kill()
        return process

    with (
        mock.patch.object(workers, "_start", start_dead),
        pytest.raises(UserError, match="decodes images ended with code -9"),
    ):
        load(f"folder:{folder}", streaming=True)
    assert children() == [] and not (tmp_path / "xdg").exists()
    assert len(load(f"folder:{folder}", streaming=True).test) == 8


def _replaced(path):
    Image.new("RGB", (5, 6)).save(path)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:40])


def _emptied(path):
    path.write_bytes(b"")


def _piped(path):
    path.unlink()
    os.mkfifo(path)


def _doubled(path):
    shutil.copy(path, path.with_stem("more"))


@pytest.mark.parametrize("change", [_replaced, _truncated, _emptied, _piped, _doubled, Path.unlink])
def test_a_run_goes_on_with_the_images_that_it_began_with_alone(folder, change):
    name = f"folder:{folder}"
    options = {"streaming": True, "on_bad_image": "skip", "val_fraction": 0}
    record = ModelRecord.of(load(name, **options))
    changed = folder / "train" / "a" / "7.png"
    before = changed.read_bytes()
    change(changed)
    with pytest.raises(UserError, match=r"train has (other images|\d+ images instead of 40)"):
        record.refuse_other(load(name, **options))
    changed.unlink(missing_ok=True)
    changed.with_stem("more").unlink(missing_ok=True)
    changed.write_bytes(before)
    record.refuse_other(load(name, **options))


_READS = """
import sys
from eanet.data.load import load_dataset
from eanet.data.stored import ahead
images = load_dataset(sys.argv[1], streaming=True, val_fraction=0).train.images
for part in ahead(images, iter(lambda: slice(0, 1), None), 1):
    print("reading", flush=True)
"""


@pytest.mark.slow
def test_workers_end_with_the_process_that_was_killed_and_know_no_jax(folder):
    root = Path(__file__).parents[2]
    reader = subprocess.Popen(
        [sys.executable, "-c", _READS, f"folder:{folder}"], cwd=root, stdout=subprocess.PIPE
    )
    while b"reading" not in reader.stdout.readline():
        assert reader.poll() is None
    found = psutil.Process(reader.pid).children()
    assert found
    mapped = {map.path for child in found for map in child.memory_maps()}
    assert any("_imaging" in path for path in mapped)
    assert not any("jaxlib" in path for path in mapped)
    # A signal of the terminal is for the process alone.
    os.kill(found[0].pid, signal.SIGCONT)
    assert all(os.getpgid(child.pid) != os.getpgid(reader.pid) for child in found)
    reader.kill()
    _, alive = psutil.wait_procs(found, timeout=20)
    assert alive == []
    reader.stdout.close()
    reader.wait()


def test_there_are_no_more_workers_than_memory_holds_images(monkeypatch):
    recipe = base.Recipe("file", (8, 8, 3), ("a",), largest=(9000, 9000))
    monkeypatch.setattr(base, "physical_memory", lambda: 10**9)
    assert workers.Workers(recipe)._count == 1


def test_an_image_that_memory_does_not_hold_is_refused_before_it_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(base, "physical_memory", lambda: 2**20)
    monkeypatch.setattr("eanet.data.survey._look_at_all", None)
    for streaming in (None, True):
        with pytest.raises(UserError, match=r"images of 512x512x3 need .* dataset\.image_size"):
            load(f"folder:{folder}", streaming=streaming, image_size=(512, 512))


def test_a_link_that_is_broken_later_is_seen(folder):
    load(f"folder:{folder}", streaming=True)
    (folder / "train/a/lost.png").symlink_to("nowhere.png")
    for streaming in (True, False):
        with pytest.raises(UserError, match=r"lost\.png cannot be read"):
            load(f"folder:{folder}", streaming=streaming)
