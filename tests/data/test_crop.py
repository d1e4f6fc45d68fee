"""Random parts of the images in their files: torchvision's, and the same ones whoever decodes."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eanet.data import workers
from eanet.data.crop import Crop, box, cut
from eanet.data.load import load_dataset
from eanet.data.stored import ahead
from eanet.errors import UserError
from tests.helpers.data_fixtures import random_images, write_folder, write_prepared
from tests.helpers.torchvision_crop import drawn_as_in_torchvision

SIDES = st.integers(1, 60)
CROPS = st.builds(
    Crop,
    least_area=st.floats(0.01, 1),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 10**6),
    example=st.integers(0, 2**31),
)


@pytest.mark.parametrize(
    ("size", "least_area"), [((32, 32), 0.08), ((32, 32), 0.8), ((8, 20), 0.9), ((20, 8), 0.5)]
)
def test_parts_are_drawn_as_in_torchvision(size, least_area):
    height, width = size
    rng, drawn = np.random.default_rng(0), []
    for example in range(4000):
        left, top, right, bottom = box(width, height, Crop(least_area, 5, 2, example))
        drawn.append((top, left, bottom - top, right - left))
    expected = [drawn_as_in_torchvision(rng, *size, least_area) for _ in range(4000)]
    for ours, theirs in zip(np.transpose(drawn), np.transpose(expected), strict=True):
        ours, theirs = (np.bincount(np.asarray(x, int), minlength=33) for x in (ours, theirs))
        shares = np.cumsum(ours) / 4000, np.cumsum(theirs) / 4000
        np.testing.assert_allclose(*shares, atol=0.04)


@given(width=SIDES, height=SIDES, crop=CROPS)
def test_a_part_lies_in_the_image_and_is_a_function_of_what_it_is_said_to_be(width, height, crop):
    left, top, right, bottom = box(width, height, crop)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert box(width, height, Crop(*crop)) == (left, top, right, bottom)
    wide, high = right - left, bottom - top
    least, most = (wide - 0.5) / (high + 0.5), (wide + 0.5) / (high - 0.5)
    assert least <= 4 / 3 and most >= 3 / 4
    if max(width, height) < 4 / 3 * min(width, height):
        assert (wide + 1) * (high + 1) >= crop.least_area * width * height


def test_seed_epoch_and_example_each_give_other_parts():
    base, drawn = Crop(0.1, 1, 2, 3), set()
    for name in ("seed", "epoch", "example"):
        drawn |= {box(500, 400, base._replace(**{name: value})) for value in range(10, 60)}
    assert len(drawn) == 150


@pytest.mark.parametrize(
    ("size", "expected"), [((90, 3), (43, 0, 47, 3)), ((3, 90), (0, 43, 3, 47)), ((1, 1), None)]
)
def test_where_no_part_fits_it_is_the_largest_in_the_centre(size, expected):
    for example in range(50):
        assert box(*size, Crop(0.5, 0, 0, example)) == (expected or (0, 0, 1, 1))


def test_a_part_is_resized_from_its_own_pixels():
    columns, rows = np.meshgrid(np.arange(240), np.arange(180))
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
    for example in range(20):
        crop = Crop(0.2, 7, 0, example)
        left, top, right, bottom = box(240, 180, crop)
        pixels = np.asarray(cut(image, (8, 10), crop)).astype(float)
        assert pixels.shape == (8, 10, 3) and not pixels[..., 2].any()
        for axis, first, end, count in ((0, left, right, 10), (1, top, bottom, 8)):
            # Of a ramp the mean around a place is that place, except at the ends.
            found = pixels[..., axis].mean(axis=axis)
            scale = (end - first) / count
            expected = first + (np.arange(count) + 0.5) * scale - 0.5
            np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=0.6)
            np.testing.assert_allclose(found[[0, -1]], expected[[0, -1]], atol=0.6 + scale / 4)
            assert found.min() >= first and found.max() <= end - 1


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def load(name, **options):
    defaults = {"image_size": (8, 7), "streaming": True, "decode_crop": 0.3, "seed": 4}
    return load_dataset(name, **{"val_fraction": 0, "log": lambda line: None} | defaults | options)


@pytest.mark.parametrize("form", ["file", "array_record"])
def test_the_same_parts_whoever_decodes_them_in_whatever_order(form, tmp_path, monkeypatch):
    if form == "file":
        write_folder(tmp_path / "x", {"train/a": 20, "train/b": 13, "test/a": 1}, shape=(30, 21, 3))
        dataset = load(f"folder:{tmp_path / 'x'}", resize="crop")
    else:
        splits = {"train": random_images(33, (30, 21, 3)), "test": random_images(2, (30, 21, 3))}
        write_prepared(tmp_path, form, splits)
        dataset = load("shapes", data_dir=tmp_path, resize="crop")
    stored = load_sizes(dataset, tmp_path, form)
    entries = np.random.default_rng(1).permutation(3 * 33)
    expected = np.stack([
        np.asarray(cut(stored[entry % 33], (8, 7), Crop(0.3, 4, entry // 33, entry % 33)))
        for entry in entries.tolist()
    ])  # fmt: skip
    np.testing.assert_array_equal(dataset.crops[entries], expected)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    with contextlib.closing(ahead(dataset.crops, np.split(entries, [5, 40, 41]), 2)) as parts:
        np.testing.assert_array_equal(np.concatenate(list(parts)), expected)
    assert len({part.tobytes() for part in expected}) == 99


def load_sizes(dataset, root, form):
    """The training images as they are stored, in the order of the data set."""
    if form == "file":
        paths = [path for path, _ in dataset.train.images._references]
        return [Image.open(path) for path in paths]
    whole = load_dataset("shapes", data_dir=root, val_fraction=0, log=lambda line: None)
    return list(map(Image.fromarray, whole.train.images))


def test_validation_test_and_statistics_are_of_whole_images(tmp_path):
    write_folder(tmp_path / "x", {"train/a": 8, "train/b": 4, "test/a": 2}, shape=(9, 12, 3))
    options = {"val_fraction": 0.5, "image_size": (8, 8)}
    one, other = (load(f"folder:{tmp_path / 'x'}", decode_crop=c, **options) for c in (0.3, 0.0))
    assert one.crops is not None and other.crops is None
    assert one.fingerprints == other.fingerprints
    for part in ("train", "val", "test"):
        images = (np.asarray(getattr(each, part).images) for each in (one, other))
        np.testing.assert_array_equal(*images)
    np.testing.assert_array_equal(one.mean, other.mean)


def test_a_changed_image_is_refused_as_without_parts(tmp_path):
    write_folder(tmp_path / "x", {"train/a": 3, "test/a": 1}, shape=(9, 12, 3))
    dataset = load(f"folder:{tmp_path / 'x'}")
    Image.new("RGB", (12, 9)).save(tmp_path / "x" / "train" / "a" / "1.png")
    with pytest.raises(UserError, match=r"1\.png has changed since the start"):
        dataset.crops[np.arange(3)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"streaming": None}, r"decode_crop=0\.3 needs dataset\.streaming=True"),
        ({"streaming": False}, r"decode_crop=0\.3 needs dataset\.streaming=True"),
        ({"image_size": None}, r"decode_crop=0\.3 needs dataset\.image_size"),
        ({}, r"for images in files, which digits has not; use augment\.random_resized_crop"),
    ],
)
def test_what_cannot_be_cut_at_decoding_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        load("digits", **options)
