import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from eanet.data.base import Decoded, Source, Split
from eanet.data.cache import cached, default_cache_dir
from tests.helpers.data_fixtures import random_images


def source(content: int = 0, reads: list | None = None, delay: float = 0) -> Source:
    def read():
        if reads is not None:
            reads.append(content)
        time.sleep(delay)
        parts = {
            part: Split(*random_images(30, seed=content + i))
            for i, part in enumerate(("train", "test"))
        }
        return Decoded(parts, ("ä", "b", "c"))

    return Source("name/with:signs", "the identity", f"content {content}", read)


def assert_same(decoded: Decoded, expected: Decoded):
    assert decoded.class_names == expected.class_names
    assert decoded.splits.keys() == expected.splits.keys()
    for part, split in expected.splits.items():
        np.testing.assert_array_equal(decoded.splits[part].images, split.images)
        np.testing.assert_array_equal(decoded.splits[part].labels, split.labels)


def test_decoded_once_then_memory_mapped(tmp_path):
    reads, lines = [], []
    for _ in range(2):
        decoded = cached(source(reads=reads), tmp_path / "deep" / "cache", lines.append)
        assert_same(decoded, source().read())
        assert isinstance(decoded.splits["train"].images, np.memmap)
        assert not decoded.splits["train"].images.flags.writeable
    assert len(reads) == len(lines) == 1
    assert [path.name[0] for path in (tmp_path / "deep" / "cache").iterdir()] == ["n"]


def test_a_changed_source_is_decoded_again_in_the_same_place(tmp_path):
    lines = []
    cached(source(0), tmp_path, lines.append)
    assert_same(cached(source(7), tmp_path, lines.append), source(7).read())
    assert "out of date" in lines[1]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_damage_is_found_said_and_repaired(name, damage, tmp_path):
    reads, lines = [], []
    cached(source(reads=reads), tmp_path, lines.append)
    (path,) = tmp_path.glob(f"*/{name}")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) * 2 // 3] ^= 1
    else:
        del content[{"truncate": -1, "empty": 0, "remove": 0}[damage] :]
    path.write_bytes(content)
    if damage == "remove":
        path.unlink()
    assert_same(cached(source(reads=reads), tmp_path, lines.append), source().read())
    assert len(reads) == 2 and "again" in lines[1] and "damaged" in lines[1]
    cached(source(reads=reads), tmp_path, lines.append)
    assert len(reads) == 2


def test_every_flipped_bit_of_the_index_is_found(tmp_path):
    cached(source(), tmp_path, lambda line: None)
    (path,) = tmp_path.glob("*/index.json")
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        assert_same(cached(source(), tmp_path, lambda line: None), source().read())


@pytest.mark.parametrize("obstacle", ["file", "/proc/none", "/dev/null"])
def test_goes_on_where_nothing_can_be_written(obstacle, tmp_path):
    place = tmp_path / "file" if obstacle == "file" else obstacle
    if obstacle == "file":
        place.write_text("in the way")
    lines = []
    assert_same(cached(source(), Path(place), lines.append), source().read())
    assert "without a cache" in lines[-1]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_lies_where_the_copy_should_is_replaced(kind, tmp_path):
    cached(source(), tmp_path / "cache", lambda line: None)
    (place,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(place)
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        place.write_text("garbage")
    else:
        place.symlink_to(tmp_path / "elsewhere")
    assert_same(cached(source(), tmp_path / "cache", lambda line: None), source().read())
    assert list((tmp_path / "cache").iterdir()) == [place] and not place.is_symlink()
    reads = []
    cached(source(reads=reads), tmp_path / "cache", lambda line: None)
    assert reads == [] and (tmp_path / "elsewhere").is_dir()


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    lines = []
    assert_same(cached(source(), tmp_path, lines.append), source().read())
    assert "No space left" in lines[-1] and not list(tmp_path.iterdir())


def _work(folder, content, results):
    try:
        for _ in range(15):
            decoded = cached(source(content, delay=0.001), folder, lambda line: None)
            assert_same(decoded, source(content).read())
        results.put("fine")
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.parametrize("contents", [(0, 0, 0), (0, 1, 2)])
def test_processes_at_the_same_time_do_not_harm_each_other(contents, tmp_path):
    """Also where each finds the other's copy out of date, again and again."""
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would cut off
    results = context.Queue()
    workers = [context.Process(target=_work, args=(tmp_path, c, results)) for c in contents]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=120) for _ in workers] == ["fine"] * len(workers)
    for worker in workers:
        worker.join()
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_killed_processes_are_removed_after_a_day(tmp_path):
    old, young = tmp_path / ".old.partial", tmp_path / ".young.partial"
    for path in (old, young):
        path.mkdir()
    os.utime(old, (1e9, 1e9))
    cached(source(), tmp_path, lambda line: None)
    assert not old.exists() and young.exists()


def test_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache_dir() == tmp_path / ".cache" / "eanet"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert str(default_cache_dir()) == "/elsewhere/eanet"
