import os

import numpy as np
import pytest
from PIL import Image

from eanet.data import base
from eanet.data.base import Wanted
from eanet.data.folder import folder_source
from eanet.errors import UserError
from tests.helpers.data_fixtures import deep_png, write_folder

GREY = np.arange(30, dtype=np.uint8).reshape(6, 5) * 8
RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def read(root):
    return folder_source(str(root), Wanted()).read()


def test_every_pixel_and_label_arrives(tmp_path):
    written = write_folder(tmp_path, {"train/b": 3, "train/a": 5, "test/a": 2, "test/b": 4})
    decoded = read(tmp_path)
    assert decoded.class_names == ("a", "b") and decoded.splits.keys() == {"train", "test"}
    for part, split in decoded.splits.items():
        expected = {
            (pixels.tobytes(), path.parent.name)
            for path, pixels in written.items()
            if path.parent.parent.name == part
        }
        found = {(i.tobytes(), "ab"[k]) for i, k in zip(split.images, split.labels, strict=True)}
        assert found == expected


def test_any_tail_is_mixed_and_the_order_is_that_of_the_names(tmp_path):
    layout = {"train/a": 50, "train/b": 50, "val/a": 1}
    write_folder(tmp_path / "one", layout)
    write_folder(tmp_path / "two", layout)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert 4 < one.splits["train"].labels[-20:].sum() < 16
    np.testing.assert_array_equal(one.splits["train"].images, two.splits["train"].images)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("train", "val"), {"train": 3, "test": 1}),
        (("train", "test"), {"train": 3, "test": 2}),
        (("train", "val", "test"), {"train": 3, "val": 1, "test": 2}),
    ],
)
def test_which_folder_is_held_out(parts, expected, tmp_path):
    sizes = {"train": 3, "val": 1, "test": 2}
    write_folder(tmp_path, {f"{part}/a": sizes[part] for part in parts})
    assert {part: len(split) for part, split in read(tmp_path).splits.items()} == expected


def test_a_damaged_image_is_told_of_by_us_alone(tmp_path, capfd):
    write_folder(tmp_path, {"train/a": 1, "test/a": 1})
    path = tmp_path / "train" / "a" / "odd.tif"
    Image.fromarray(RGB).save(path, compression="tiff_lzw")
    content = path.read_bytes()
    start = content.index(b"\x80", 8)  # of the compressed pixels
    path.write_bytes(content[:start] + b"\xff" * 20 + content[start + 20 :])
    refused(tmp_path, path, "decoder error")
    assert capfd.readouterr().err == ""


def test_greyscale_only_where_all_are(tmp_path):
    layout = tmp_path / "train" / "a", tmp_path / "test" / "a"
    for folder in layout:
        folder.mkdir(parents=True)
        Image.fromarray(GREY).save(folder / "grey.png")
    assert read(tmp_path).splits["train"].images.shape == (1, 6, 5, 1)
    Image.fromarray(RGB).save(layout[0] / "colour.png")
    decoded = read(tmp_path)
    assert decoded.splits["train"].images.shape == (2, 6, 5, 3)
    np.testing.assert_array_equal(decoded.splits["test"].images[0], np.stack([GREY] * 3, -1))


def write_deep(path, largest, channels=1):
    values = np.full((6, 5, channels), largest, np.uint16)
    values[0] = largest // 2
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(deep_png(values))


def test_all_16_bit_images_of_a_set_have_one_scale(tmp_path):
    for name, largest in {
        "train/a/0": 200,
        "train/a/1": 1000,
        "val/a/0": 9,
        "test/a/0": 4095,
    }.items():
        write_deep(tmp_path / f"{name}.png", largest)
    decoded = read(tmp_path)
    assert decoded.bits == 12
    assert decoded.notes == (
        "4 images have 16 bits a value, of which the largest of all needs 12: values are divided "
        "by 16",
    )
    found = {part: sorted(split.images.max((1, 2, 3))) for part, split in decoded.splits.items()}
    assert found == {"train": [200 // 16, 1000 // 16], "val": [0], "test": [255]}
    # A part that is read alone keeps to the scale that it is given.
    alone = folder_source(str(tmp_path), Wanted("val", bits=12)).read()
    np.testing.assert_array_equal(alone.splits["val"].images, decoded.splits["val"].images)
    own = folder_source(str(tmp_path), Wanted("val")).read()
    assert own.splits["val"].images.max() == 9 and own.bits == 8


def test_images_of_8_bits_have_no_scale(tmp_path):
    write_folder(tmp_path, {"train/a": 2, "test/a": 1})
    assert read(tmp_path).bits is None and read(tmp_path).notes == ()


def test_what_desktops_and_archivers_leave_is_ignored_and_counted(tmp_path):
    write_folder(tmp_path, {"train/a": 2, "test/a": 1})
    for path in (".DS_Store", "Thumbs.db", "train/.x", "train/desktop.ini", "train/a/._0.png"):
        (tmp_path / path).write_text("hidden")
    for path in ("test/a/Thumbs.db", "test/a/Icon\r"):
        (tmp_path / path).write_text("of the system")
    for folder in ("__MACOSX/train/a", "train/__MACOSX", "train/a/@eaDir", "test/$RECYCLE.BIN"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.png").write_text("of the system")
    decoded = read(tmp_path)
    assert decoded.class_names == ("a",) and len(decoded.splits["train"]) == 2
    (note,) = folder_source(str(tmp_path), Wanted()).notes
    assert note.startswith("ignored 11 hidden files or files of the system, such as ")


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    layout = {
        f"train/{composed}": 2,
        f"train/{decomposed}": 1,
        "train/z": 1,
        f"test/{decomposed}": 2,
    }
    write_folder(tmp_path, layout)
    decoded = read(tmp_path)
    assert decoded.class_names == (composed, "z")
    assert np.bincount(decoded.splits["train"].labels).tolist() == [3, 1]
    assert decoded.splits["test"].labels.tolist() == [0, 0]


def test_a_set_too_large_is_refused_before_any_pixel_is_decoded(tmp_path, monkeypatch):
    for number in range(40):
        path = tmp_path / ("train" if number else "test") / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png_that_claims(9_000, 9_000))
    monkeypatch.setattr(base, "physical_memory", lambda: 4 * 10**9)
    refused(tmp_path, "40 images of 9000x9000x3", "half")


def refused(tmp_path, *words):
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def _symlink_to_itself(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no image"),
        lambda path: path.write_bytes(path.with_name("0.png").read_bytes()[:-30]),
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n"),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to(path.parent),
        lambda path: path.symlink_to("nowhere.png"),
        _symlink_to_itself,
        lambda path: Image.fromarray(RGB.astype(np.float32)[..., 0]).save(path, "TIFF"),
        lambda path: Image.fromarray(RGB).save(
            path, "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1])]
        ),
        lambda path: path.write_bytes(_png_that_claims(60_000, 60_000)),
        lambda path: path.write_bytes(_png_that_claims(10_000, 10_000)),
        lambda path: path.write_bytes(_png_that_claims(0, 6)),
    ],
)
def test_what_is_no_usable_image_is_named(make, tmp_path):
    write_folder(tmp_path, {"train/a": 2, "test/a": 1})
    path = tmp_path / "train" / "a" / "odd.png"
    make(path)
    refused(tmp_path, path)


def _png_that_claims(width, height) -> bytes:
    import struct
    import zlib

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_two_sizes_name_two_files(tmp_path):
    write_folder(tmp_path, {"train/a": 2, "test/a": 1})
    odd = tmp_path / "test" / "a" / "odd.png"
    Image.fromarray(RGB[:, :4]).save(odd)
    refused(tmp_path, odd, "4x6", "5x6", tmp_path / "train" / "a")


def test_layouts_that_are_refused(tmp_path):
    refused(tmp_path / "missing", "no such folder")
    refused(tmp_path, "train/CLASS")
    write_folder(tmp_path, {"train/a": 1})
    refused(tmp_path, "val/CLASS")
    (tmp_path / "test").mkdir()
    refused(tmp_path, tmp_path / "test", "no class folders")
    write_folder(tmp_path, {"test/c": 1})
    refused(tmp_path, tmp_path / "test" / "c", "no class 'c'")
    (tmp_path / "train" / "c").mkdir()
    refused(tmp_path, tmp_path / "train" / "c", "no images")
    (tmp_path / "train" / "c" / "notes.txt").write_text("hello")
    refused(tmp_path, tmp_path / "train" / "c", "no images")
    (tmp_path / "train" / "a.png").write_text("stray")
    refused(tmp_path, "a.png", "beside the class folders")


def test_more_than_memory_is_refused_before_decoding(tmp_path, monkeypatch):
    write_folder(tmp_path, {"train/a": 2, "test/a": 1})
    monkeypatch.setattr(base, "physical_memory", lambda: 2 * 3 * 90)
    read(tmp_path)
    monkeypatch.setattr(base, "physical_memory", lambda: 2 * 3 * 90 - 1)
    refused(tmp_path, "3 images of 6x5x3", "half")


def test_fingerprint_follows_the_files(tmp_path):
    write_folder(tmp_path, {"train/a": 2, "test/a": 1})
    path = tmp_path / "train" / "a" / "0.png"

    def fingerprint():
        return folder_source(str(tmp_path), Wanted()).fingerprint

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    os.utime(path, (1e9, 1e9))
    seen.append(fingerprint())
    time, content = path.stat().st_mtime_ns, path.read_bytes()
    path.write_bytes(content[::-1])  # of equal size, and with the time put back
    os.utime(path, ns=(time, time))
    seen.append(fingerprint())
    path.rename(path.with_name("z.png"))
    seen.append(fingerprint())
    path.with_name("z.png").unlink()
    seen.append(fingerprint())
    assert len(set(seen)) == 5
