import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eanet.data import base
from eanet.data.base import Decoded, Source, Split
from eanet.data.load import load_dataset, load_part
from eanet.data.sources import SOURCES
from eanet.data.splits import (
    channel_statistics,
    split_test,
    split_validation,
    stratified_choice,
)
from eanet.errors import UserError
from tests.helpers.data_fixtures import random_images, write_folder, write_prepared


@pytest.fixture(autouse=True)
def own_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def quiet(line):
    pass


def test_digits():
    from sklearn.datasets import load_digits

    original = load_digits()
    digits = load_dataset("digits", log=quiet)
    assert digits.image_shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")
    assert len(digits.train) + len(digits.val) + len(digits.test) == 1797
    assert len(digits.test) == 359
    per_class = np.bincount(digits.test.labels) / np.bincount(original.target)
    np.testing.assert_allclose(per_class, 0.2, atol=0.01)
    assert digits.train.images.dtype == np.uint8 and digits.train.labels.dtype == np.int32
    # Every original appears once, with its label and its 17 grey levels.
    images = np.concatenate([part.images for part in (digits.train, digits.val, digits.test)])
    labels = np.concatenate([part.labels for part in (digits.train, digits.val, digits.test)])

    def examples(levels, labels):
        return sorted(zip(map(bytes, levels.astype(np.uint8)), labels, strict=True))

    levels = np.rint(images[..., 0] / 255 * 16)
    assert examples(levels, labels) == examples(original.images, original.target)


@pytest.mark.parametrize("size", [None, (4, 9)])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["folder", "array_record", "tfrecord"])
def test_the_system_is_not_asked_about_every_image(form, streaming, size, tmp_path, monkeypatch):
    """For the memory that there is: that takes as long as to decode a small image."""
    asked = {}
    for count in (3, 30):
        place = tmp_path / str(count)
        if form == "folder":
            write_folder(place, {"train/a": count, "train/b": count, "test/a": 1, "test/b": 1})
        else:
            write_prepared(place, form, {"train": random_images(count), "test": random_images(3)})
        asks = []
        monkeypatch.setattr(base, "physical_memory", lambda asks=asks: asks.append(1) or 10**9)
        options = {"image_size": size, "streaming": streaming, "val_fraction": 0, "log": quiet}
        name = f"folder:{place}" if form == "folder" else "shapes"
        dataset = load_dataset(name, data_dir=None if form == "folder" else place, **options)
        assert len(dataset.train.images[:]) in (count, 2 * count)
        asked[count] = len(asks)
    assert 0 < asked[3] == asked[30]


def test_the_test_split_depends_on_no_setting():
    first = load_dataset("digits", seed=0, val_split="random", log=quiet)
    second = load_dataset("digits", seed=1, val_split="random", val_fraction=0.1, log=quiet)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert not np.array_equal(first.val.labels, load_dataset(
        "digits", seed=1, val_split="random", log=quiet).val.labels)  # fmt: skip


def numbered(labels) -> Split:
    labels = np.asarray(labels, np.int32)
    return Split(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1), labels)


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=200),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_random_split_is_exact_disjoint_and_stratified(labels, fraction, seed):
    whole = numbered(labels)
    kept = int(len(labels) * (1 - fraction))
    if kept == 0:
        with pytest.raises(UserError, match="leaves none"):
            split_validation(whole, fraction, "random", seed)
        return
    train, val = split_validation(whole, fraction, "random", seed)
    assert len(train) == len(train.images) == kept and len(val) == len(labels) - kept
    together = np.concatenate([train.images, val.images]).ravel()
    assert sorted(together) == list(range(len(labels)))
    for part in (train, val):
        np.testing.assert_array_equal(part.labels, whole.labels[part.images.ravel()])
        expected = np.bincount(labels) * len(part) / len(labels)
        assert np.all(np.abs(np.bincount(part.labels, minlength=len(expected)) - expected) < 1)
    again, _ = split_validation(whole, fraction, "random", seed)
    np.testing.assert_array_equal(again.images, train.images)


def test_last_split_is_the_unshuffled_tail_as_in_keras():
    train, val = split_validation(numbered(range(11)), 0.2, "last", 0)
    assert train.images.ravel().tolist() == list(range(8))  # floor(11 · 0.8)
    assert val.images.ravel().tolist() == [8, 9, 10]


@pytest.mark.parametrize("how", ["last", "random"])
def test_no_validation(how):
    train, val = split_validation(numbered([0, 1, 1]), 0, how, 0)
    assert len(train) == 3 and len(val) == 0 and val.images.shape == (0, 1, 1, 1)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_bad_fraction(fraction):
    with pytest.raises(UserError, match="val_fraction"):
        load_dataset("digits", val_fraction=fraction, log=quiet)


def test_bad_way_of_splitting():
    with pytest.raises(UserError, match="val_split='first' must be one of last, random"):
        load_dataset("digits", val_split="first", log=quiet)


def test_stratified_choice_draws_by_seed():
    labels = np.repeat([0, 1], 50)
    draws = {stratified_choice(labels, 20, seed).tobytes() for seed in range(5)}
    assert len(draws) == 5


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 3, 5, 3), (3, 40, 30, 4), (2000, 2, 2, 3)])
def test_statistics_against_float64(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = channel_statistics(images)
    exact = images.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, np.maximum(exact.std((0, 1, 2)), 1), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_statistics_of_many_white_pixels_do_not_overflow():
    mean, std = channel_statistics(np.full((70_000, 1, 1, 1), 255, np.uint8))
    assert mean == 255 and std == 1


def test_statistics_are_of_the_training_part_alone(tmp_path):
    images, labels = random_images(20)
    images[10:] = 255
    write_prepared(tmp_path, "tfrecord", {"train": (images, labels), "test": (images, labels)})
    shapes = load_dataset("shapes", data_dir=tmp_path, val_fraction=0.5, log=quiet)
    np.testing.assert_allclose(
        shapes.mean, images[:10].astype(np.float64).mean((0, 1, 2)), rtol=1e-6
    )


def test_folder_end_to_end_with_own_validation(tmp_path):
    layout = {f"{part}/{name}": 4 for part in ("train", "val", "test") for name in "ab"}
    write_folder(tmp_path, layout)
    folder = load_dataset(f"folder:{tmp_path}", val_fraction=0.5, log=quiet)
    assert (len(folder.train), len(folder.val), len(folder.test)) == (8, 8, 8)
    assert str(folder).endswith("8 train, 8 val, 8 test images of 6x5x3, 2 classes")


@pytest.mark.parametrize("name", ["", "../secret", "a b", "mnist:1", "x/../../y", "http://x/y"])
def test_what_is_no_name(name):
    with pytest.raises(UserError, match="is no dataset"):
        load_dataset(name, log=quiet)


@pytest.mark.parametrize("given_by", ["argument", "environment"])
def test_missing_data_directory(given_by, tmp_path, monkeypatch):
    missing = str(tmp_path / "missing")
    monkeypatch.setenv("TFDS_DATA_DIR", missing)
    with pytest.raises(UserError, match=f"={missing} is no directory"):
        load_dataset("cifar100", data_dir=missing if given_by == "argument" else None, log=quiet)


def test_a_start_from_the_cache_imports_nothing_heavy(tmp_path):
    images, labels = random_images(10)
    write_prepared(tmp_path, "array_record", {"train": (images, labels), "test": (images, labels)})
    write_folder(tmp_path / "folder", {"train/a": 3, "test/a": 2})
    names = ("digits", "shapes", f"folder:{tmp_path / 'folder'}")
    for name in names:
        load_dataset(name, data_dir=tmp_path, log=quiet)
    program = f"""
import sys
from eanet.data.load import load_dataset, load_part
from eanet.data.sources import SOURCES
for name in {names!r}:
    load_dataset(name, data_dir={str(tmp_path)!r}, log=lambda line: sys.exit("not cached: " + line))
heavy = {{"tensorflow", "tensorflow_datasets", "sklearn", "PIL", "jax", "array_record"}}
sys.exit(", ".join(heavy & set(sys.modules)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def bands(argument, wanted):
    """A source from outside: brighter images in one class than in the other."""

    def read():
        labels = np.arange(64, dtype=np.int32) % 2
        images = np.full((64, 4, 4, 1), 50) + 100 * labels[:, None, None, None]
        split = Split(images.astype(np.uint8), labels)
        return Decoded({"train": split, "test": split}, ("dark", "bright"))

    assert wanted.part in (None, "test")
    return Source("bands", f"bands:{argument}", "first", read, place=argument or None)


def test_a_source_of_ones_own_is_an_entry_of_the_table(monkeypatch, tmp_path):
    for name in ("bands", "bands:"):
        monkeypatch.setitem(SOURCES, name, bands)
    assert len(load_dataset("bands", log=quiet).train) == 51
    elsewhere = load_dataset("bands:/old", val_fraction=0, place=str(tmp_path), log=quiet)
    assert elsewhere.place == str(tmp_path) and elsewhere.class_names == ("dark", "bright")
    part = load_part(
        "bands:x", "test", class_names=("bright", "dark"), image_shape=(4, 4, 1), log=quiet
    )
    assert part.split.labels.tolist() == [1, 0] * 32
    with pytest.raises(UserError, match=r"write digits, folder:…, bands, bands:… or a TFDS name"):
        load_dataset("no name", log=quiet)
    with pytest.raises(UserError, match="did you mean 'bands'"):
        load_dataset("band", data_dir=tmp_path, log=quiet)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40).filter(lambda labels: len(labels) > 1),
    st.floats(0.01, 0.99),
)
@settings(max_examples=50)
def test_what_is_held_out_to_test_on_is_not_copied(labels, fraction):
    """An array is rearranged in its place; both parts keep the order that they have there."""
    labels = np.array(labels, np.int32)
    images = np.arange(len(labels) * 6, dtype=np.uint8).reshape(-1, 1, 2, 3)
    whole = images.copy()
    train, test = split_test(Split(images, labels), fraction)
    assert np.shares_memory(train.images, images) or not len(train)
    assert np.shares_memory(test.images, images) or not len(test)
    first = {image.tobytes(): place for place, image in enumerate(whole)}
    places = [[first[image.tobytes()] for image in part.images] for part in (train, test)]
    assert all(each == sorted(each) for each in places)
    assert sorted(places[0] + places[1]) == list(range(len(labels)))
    for part, chosen in zip((train, test), places, strict=True):
        np.testing.assert_array_equal(part.labels, labels[chosen])
