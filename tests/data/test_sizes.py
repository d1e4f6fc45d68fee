"""Images of many sizes: refused without one for all, and resized alike wherever they are read."""

import numpy as np
import pytest
from PIL import Image

from eanet.data import base, images
from eanet.data.load import load_dataset, load_part
from eanet.errors import UserError
from tests.helpers.data_fixtures import random_images, write_folder, write_prepared
from tests.helpers.photographs import write_photographs


def quiet(_line):
    pass


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    return root, write_photographs(root, {"china": 12, "flower": 6})


def load(root, **options):
    return load_dataset(f"folder:{root}", val_fraction=0, log=quiet, **options)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_every_image_is_what_pillow_makes_of_it(photographs, resize):
    root, paths = photographs
    dataset = load(root, image_size=[16, 24], resize=resize)
    assert dataset.image_shape == (16, 24, 3) and dataset.resize == resize
    assert np.bincount(dataset.test.labels).tolist() == [2, 1]
    found = {image.tobytes() for image in (*dataset.train.images, *dataset.test.images)}
    single = {"channels": 3, "bits": 16, "size": (16, 24), "resize": resize}
    assert found == {images.read(path, **single)[0].tobytes() for path in paths}
    if resize == "squash":
        upright = Image.open(paths[1]).resize((24, 16), Image.Resampling.BILINEAR)
        assert np.asarray(upright).tobytes() in found


def test_a_part_read_alone_has_the_same_pixels_and_another_size_a_cache_of_its_own(photographs):
    root, _ = photographs
    whole = load(root, image_size=(8, 8))
    assert load(root, image_size=(8, 9)).image_shape == (8, 9, 3)
    part = load_part(
        f"folder:{root}", "test", class_names=("flower", "china"), image_shape=(8, 8, 3),
        image_size=(8, 8), log=quiet,
    )  # fmt: skip
    np.testing.assert_array_equal(part.split.images, whole.test.images)
    np.testing.assert_array_equal(part.split.labels, 1 - whole.test.labels)
    assert part.fingerprint == whole.fingerprints["test"]
    assert len({load(root, image_size=size).fingerprints["train"]
                for size in ((8, 8), (8, 9))}) == 2  # fmt: skip


def test_without_a_size_the_sizes_are_told_the_most_frequent_first(tmp_path):
    write_folder(tmp_path, {"train/a": 3, "test/a": 1})
    write_folder(tmp_path, {"train/b": 2}, shape=(9, 4, 3))
    for number in range(4):
        write_folder(tmp_path, {f"train/c{number}": 1}, shape=(3, 3 + number, 3))
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    told = str(caught.value)
    first, second = told.index("5x6 (4, such as"), told.index("4x9 (2, such as")
    assert first < second and "has images of 6 sizes (width x height)" in told
    assert "and 3 more. Say what all shall get, --config.dataset.image_size='(6,5)'" in told
    assert load(tmp_path, image_size=(6, 5)).image_shape == (6, 5, 3)


def test_memory_is_asked_for_by_the_size_that_images_get(tmp_path, monkeypatch):
    write_folder(tmp_path, {"train/a": 3, "test/a": 1}, shape=(40, 30, 3))
    monkeypatch.setattr(base, "physical_memory", lambda: 2 * 40 * 30 * 3)
    assert load(tmp_path, image_size=(4, 3)).image_shape == (4, 3, 3)
    for size in (None, (40, 31)):
        with pytest.raises(UserError, match=r"4 images of 40x3.x3 need .* dataset\.image_size"):
            load(tmp_path, image_size=size, streaming=False)
    monkeypatch.setattr(base, "physical_memory", lambda: 40 * 30 * 3)
    with pytest.raises(UserError, match=r"a/\d\.png: 1 images of 40x30x3"):
        load(tmp_path, image_size=(4, 4))


def test_other_sources_are_resized_too(tmp_path):
    digits = load_dataset("digits", image_size=(5, 4), resize="crop", log=quiet)
    assert digits.image_shape == (5, 4, 1)
    large = load_dataset("digits", log=quiet).test.images[7, ..., 0]
    expected = images.resize_lib.fit(Image.fromarray(large), (5, 4), "crop")
    np.testing.assert_array_equal(digits.test.images[7, ..., 0], expected)
    mixed = [*random_images(3)[0], *random_images(2, shape=(9, 3, 3))[0]]
    labels = np.arange(5, dtype=np.int32) % 3
    write_prepared(tmp_path, "tfrecord", {"train": (mixed, labels), "test": (mixed, labels)})
    with pytest.raises(UserError, match=r"found 3x9 and 5x6 .*dataset\.image_size"):
        load_dataset("shapes", data_dir=tmp_path, log=quiet)
    shapes = load_dataset("shapes", data_dir=tmp_path, image_size=(6, 5), log=quiet)
    np.testing.assert_array_equal(shapes.test.images[:3], mixed[:3])
    expected = Image.fromarray(mixed[4]).resize((5, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(shapes.test.images[4], expected)


def test_a_prepared_set_without_a_test_split_is_divided(tmp_path):
    images, labels = random_images(40)
    write_prepared(tmp_path, "tfrecord", {"train": (images, labels)})
    shapes = load_dataset("shapes", data_dir=tmp_path, val_fraction=0, log=quiet)
    counts = [np.bincount(split.labels) for split in (shapes.train, shapes.test)]
    np.testing.assert_array_equal(counts[1], np.round(0.2 * np.bincount(labels)))
    np.testing.assert_array_equal(counts[0] + counts[1], np.bincount(labels))
    for part, whole in (("test", shapes.test), ("train", shapes.train)):
        alone = load_part("shapes", part, class_names=shapes.class_names, data_dir=tmp_path,
                          image_shape=shapes.image_shape, log=quiet)  # fmt: skip
        np.testing.assert_array_equal(alone.split.images, whole.images)
    larger = load_dataset("shapes", data_dir=tmp_path, test_fraction=0.5, log=quiet)
    assert len(larger.test) > 15


def test_what_cannot_be_read_is_named_or_left_out(tmp_path):
    write_folder(tmp_path, {"train/a": 6, "train/b": 2, "test/a": 2})
    whole = load(tmp_path)
    damaged = [tmp_path / "train/a" / f"{number}.png" for number in range(4)]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-30] if path.stem != "0" else b"")
    (tmp_path / "train/b/notes.doc").write_text("no image")
    (tmp_path / "train/b/lost.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"3 of 12 images cannot .*; .*; .*\. Mend .*image=skip"):
        load(tmp_path)  # by their headers alone
    lines = []
    for _ in range(2):
        dataset = load_dataset(
            f"folder:{tmp_path}", val_fraction=0, on_bad_image="skip", log=lines.append
        )
        assert dataset.skipped == 6 and len(dataset.train) == 4
    assert sum("6 of 12 images cannot be read" in line and "skipped" in line for line in lines) == 1
    kept = {image.tobytes() for image in dataset.train.images}
    assert kept < {image.tobytes() for image in whole.train.images}
    assert np.bincount(dataset.train.labels).tolist() == [2, 2]
    for path in (tmp_path / "test/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no image of test can be read"):
        load(tmp_path, on_bad_image="skip")


def test_what_is_missing_of_a_table_is_told_by_its_line(tmp_path):
    write_folder(tmp_path, {"x": 4})
    rows = ["path,label", *(f"x/{number}.png,{'ab'[number % 2]}" for number in (0, 1, 2, 3, 9, 7))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    with pytest.raises(
        UserError, match=r"2 of 6 .*t\.csv, line 7: .*/7\.png cannot .*No such file"
    ):
        load(tmp_path / "t.csv")
    assert load(tmp_path / "t.csv", on_bad_image="skip").skipped == 2
    write_folder(tmp_path, {"y": 10})
    (tmp_path / "x/9.png").write_bytes((tmp_path / "y/9.png").read_bytes())
    assert load(tmp_path / "t.csv", on_bad_image="skip").skipped == 1


def test_a_run_keeps_the_order_of_classes_that_it_recorded(tmp_path):
    write_folder(tmp_path, {f"{part}/{name}": 1 for part in ("train", "test") for name in (9, 10)})
    new = load(tmp_path)
    old = load(tmp_path, class_names=("10", "9"))
    assert new.class_names == ("9", "10") and old.class_names == ("10", "9")
    np.testing.assert_array_equal(old.train.labels, 1 - new.train.labels)
    np.testing.assert_array_equal(old.train.images, new.train.images)
    assert old.fingerprints == new.fingerprints
    assert load(tmp_path, class_names=("10", "8")).class_names == ("9", "10")


def test_a_prepared_set_of_one_image_a_class_cannot_be_divided(tmp_path):
    images, _ = random_images(3)
    write_prepared(tmp_path, "tfrecord", {"train": (images, np.arange(3, dtype=np.int32))})
    with pytest.raises(UserError, match="no class of two images, so that none is left to test on"):
        load_dataset("shapes", data_dir=tmp_path, log=quiet)
