"""One part of a data set alone, and the fingerprint that tells whether it is the same."""

import shutil

import numpy as np
import pytest

from eanet.data.base import Split, content_fingerprint
from eanet.data.load import load_dataset, load_part
from eanet.errors import UserError
from tests.helpers.data_fixtures import random_images, write_folder, write_prepared

LAYOUT = {"train/a": 3, "train/b": 4, "test/a": 2, "test/b": 3}
NAMES = ("a", "b")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def quiet(line):
    pass


def part_of(name, part="test", class_names=NAMES, image_shape=(6, 5, 3), **options):
    return load_part(
        name, part, class_names=class_names, image_shape=image_shape, log=quiet, **options
    )


def fingerprint(images, labels, names=NAMES, ordered=False):
    return content_fingerprint(Split(images, labels), names, ordered=ordered)


def test_a_part_has_the_fingerprint_that_it_has_in_the_whole(tmp_path):
    write_folder(tmp_path / "data", LAYOUT)
    name = f"folder:{tmp_path / 'data'}"
    whole = load_dataset(name, val_fraction=0.4, log=quiet)
    again = load_dataset(name, val_fraction=0.4, log=quiet)  # from the cache
    assert again.fingerprints == whole.fingerprints and whole.place == str(tmp_path / "data")
    assert whole.fingerprints["val"] == whole.fingerprints["train"]
    for part in ("train", "test"):
        assert part_of(name, part).fingerprint == whole.fingerprints[part]
    np.testing.assert_array_equal(part_of(name).split.images, whole.test.images)


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_a_prepared_part_needs_the_files_of_no_other(form, tmp_path):
    splits = {"train": random_images(6, seed=1), "test": random_images(5, seed=2)}
    folder = write_prepared(tmp_path, form, splits)
    for path in folder.glob("shapes-train*"):
        path.unlink()
    part = part_of("shapes", class_names=("star", "circle", "square"), data_dir=str(tmp_path))
    np.testing.assert_array_equal(part.split.images, splits["test"][0])
    np.testing.assert_array_equal(part.split.labels, (splits["test"][1] + 1) % 3)
    assert part.place == str(folder)


def test_it_is_read_where_it_was(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", LAYOUT)
    place = part_of(f"folder:{tmp_path / 'data'}").place
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(part_of("folder:data", place=place).split) == 5
    shutil.move(tmp_path / "data", tmp_path / "moved")
    with pytest.raises(UserError, match="no such folder"):
        part_of("folder:data", place=place)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"class_names": ("a", "c")}, "class 'b', which the model does not know; it knows a, c"),
        ({"image_shape": (6, 6, 3)}, "images of 6x5x3, but the model takes 6x6x3"),
        ({"image_shape": (6, 5, 1)}, "has colours"),
        ({"part": "val"}, "must hold val"),
    ],
)
def test_what_does_not_suit_the_model_is_refused(tmp_path, options, told):
    write_folder(tmp_path, LAYOUT)
    with pytest.raises(UserError, match=told) as refusal:
        part_of(f"folder:{tmp_path}", **options)
    assert "\n" not in str(refusal.value)


def test_the_fingerprint_is_of_the_content():
    images, _ = random_images(6)
    labels = np.array([0, 1, 0, 1, 1, 0], np.int32)
    before = fingerprint(images, labels)
    turned = np.arange(6)[::-1]
    assert fingerprint(images[turned], labels[turned]) == before
    assert fingerprint(images, 1 - labels, ("b", "a")) == before  # the names count, not numbers
    assert fingerprint(images, labels, ("a", "b", "c")) == before
    changed = images.copy()
    changed[2, 3, 4, 1] ^= 1
    others = [
        fingerprint(changed, labels),
        fingerprint(images, 1 - labels),
        fingerprint(images, labels, ("a", "z")),
        fingerprint(images[:5], labels[:5]),
        fingerprint(images.reshape(6, 5, 6, 3), labels),
        fingerprint(images, labels, ordered=True),
        fingerprint(images[turned], labels[turned], ordered=True),
    ]
    assert len({before, *others}) == 8
