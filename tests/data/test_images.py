"""Files of all kinds against the pixels that were written into them."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eanet.data import images
from eanet.errors import UserError
from tests.helpers.data_fixtures import deep_png

GREY = np.arange(30, dtype=np.uint8).reshape(6, 5) * 8
RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def read(path, bits=16):
    header = images.read_header(path)
    pixels = np.empty((1, header.height, header.width, 1 if header.greyscale else 3), np.uint8)
    with images.quietly():
        for error in images.decode([path], pixels, bits=bits, threads=1).values():
            raise error
    return pixels[0]


def written(folder, image, name="x.png", **options):
    """What an image becomes that Pillow has written."""
    image.save(folder / name, **options)
    return read(folder / name)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "PNG"])
def test_every_lossless_format_is_read_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    image = Image.fromarray(RGB // 64 * 64)  # few enough colours for a palette
    np.testing.assert_array_equal(written(tmp_path, image, f"x.{suffix}", **options), image)


def test_every_ending_that_pillow_can_write_and_read_is_read(tmp_path):
    tried = []
    for ending, kind in Image.registered_extensions().items():
        # The last of these is deprecated.
        if kind not in Image.SAVE or kind in ("EPS", "WMF", "IM"):
            continue
        for mode in ("RGB", "P", "1"):
            path = tmp_path / f"x{ending}"
            try:
                Image.fromarray(RGB).resize((32, 32)).convert(mode).save(path)
                Image.open(path).close()
            except Exception:  # not in this mode, or only ever written
                continue
            assert read(path).shape[:2] >= (32, 32), ending
            tried.append(ending)
            break
    assert {".jfif", ".jpe", ".dib", ".jp2", ".tga", ".avif", ".qoi", ".apng", ".mpo"} <= {*tried}


@pytest.mark.parametrize(("kind", "name"), [("JPEG", "x.jpg"), ("MPO", "x.jpeg")])
def test_photographs_are_read(tmp_path, kind, name):
    previews = (
        {"save_all": True, "append_images": [Image.new("RGB", (2, 2))]} if kind == "MPO" else {}
    )
    image = Image.new("RGB", (5, 6), (200, 100, 50))
    pixels = written(tmp_path, image, name, format=kind, quality=95, **previews).astype(int)
    assert np.abs(pixels - [200, 100, 50]).max() < 10


def test_transparent_pixels_lie_over_white(tmp_path):
    rgba = np.concatenate([RGB, np.full((6, 5, 1), 255, np.uint8)], -1)
    rgba[0, 0, 3] = 0
    expected = RGB.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(written(tmp_path, Image.fromarray(rgba)), expected)


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(GREY // 8 % 3).copy()
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata(list((GREY // 8 % 3).ravel()))
    pixels = written(tmp_path, image, transparency=1)
    np.testing.assert_array_equal(pixels[0, :3], [[255, 0, 0], [255, 255, 255], [0, 0, 255]])


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (5, 6), (0, 255, 255, 0))
    pixels = written(tmp_path, image, "x.JPEG").astype(int)
    assert np.abs(pixels - [255, 0, 0]).max() < 10


def test_lab_is_taken_to_srgb(tmp_path):
    # sRGB's red is L* 54.3, a* 80.8, b* 69.9 under D50; white is 100, 0, 0.
    image = Image.new("LAB", (5, 6), (138, 128 + 81, 128 + 70))
    image.putpixel((0, 0), (255, 128, 128))
    pixels = written(tmp_path, image, "x.tif", tiffinfo={0x0112: 6}).astype(int)
    assert pixels.shape == (5, 6, 3)
    assert np.abs(pixels[0, 5] - 255).max() < 4 and np.abs(pixels[1:] - [255, 0, 0]).max() < 6


def test_values_with_a_fraction_are_refused_as_nobody_says_what_is_white(tmp_path):
    Image.new("F", (5, 6)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif has pixels of kind 'F'; save it as 8-bit"):
        single(tmp_path / "x.tif", 3, 16, (6, 5))


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("deep", [False, True])
def test_exif_orientation(tmp_path, deep, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter clockwise for display
    options = {"lossless": True} if name == "x.webp" else {}
    values = GREY.astype(np.uint16) << 8 if deep and name != "x.webp" else GREY
    pixels = written(tmp_path, Image.fromarray(np.rot90(values)), name, exif=exif, **options)
    np.testing.assert_array_equal(pixels[..., 0], GREY)


def test_a_single_image_is_read_as_those_of_a_data_set(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).convert("RGBA").save(tmp_path / "x.png", exif=exif)
    (tmp_path / "y.png").write_bytes(deep_png(RGB.astype(np.uint16) << 3))
    for name, bits in (("x.png", 16), ("y.png", 11)):
        expected = read(tmp_path / name, bits)
        image, resized = single(tmp_path / name, 3, bits, expected.shape[:2])
        assert not resized
        np.testing.assert_array_equal(image, expected)
    os.symlink("x.png", tmp_path / "link.png")
    grey, _ = single(tmp_path / "link.png", 1, 16, (5, 6))
    expected = Image.fromarray(RGB).convert("L").rotate(-90, expand=True)
    np.testing.assert_array_equal(grey[..., 0], expected)
    small, resized = single(tmp_path / "link.png", 1, 16, (3, 2), "squash")
    assert resized
    np.testing.assert_array_equal(small[..., 0], expected.resize((2, 3), Image.Resampling.BILINEAR))


def single(path, channels, bits, size, resize=None):
    return images.read(path, channels=channels, bits=bits, size=size, resize=resize)


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x.png"
    {"pipe": os.mkfifo, "folder": os.mkdir, "nothing": lambda _: None}[kind](path)
    with pytest.raises(UserError, match=r"x\.png cannot be read as an image: (not a|No such)"):
        single(path, 3, 16, (6, 5))


def test_a_header_is_read_without_the_pixels(tmp_path):
    (tmp_path / "x.png").write_bytes(deep_png(RGB.astype(np.uint16))[:-60])
    assert images.read_header(tmp_path / "x.png") == images.Header(6, 5, False, True)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "x.png")


def save_deep(values, path):
    """16-bit values as Pillow, or where it cannot as we, write them."""
    if path.suffix == ".png":
        path.write_bytes(deep_png(values))
    else:
        Image.fromarray(values[..., 0]).save(path)


@given(
    largest=st.integers(0, 65535),
    form=st.sampled_from([(".png", 1), (".png", 3), (".png", 4), (".png", 2), (".tif", 1)]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_of_16_bits_the_eight_that_matter_are_kept(tmp_path_factory, largest, form, seed):
    suffix, channels = form
    path = tmp_path_factory.mktemp("deep") / f"x{suffix}"
    values = np.random.default_rng(seed).integers(0, largest + 1, (4, 3, channels))
    values[0, 0] = largest
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque
    save_deep(values.astype(np.uint16), path)
    bits = images.bits_of([path], threads=1)
    assert bits == max(8, largest.bit_length())
    colours = values[..., : channels - 1 if channels in (2, 4) else channels]
    assert images.read_header(path).deep
    np.testing.assert_array_equal(*np.broadcast_arrays(read(path, bits), colours >> (bits - 8)))


def test_values_above_the_scale_are_white(tmp_path):
    save_deep(np.full((6, 5, 1), 5000, np.uint16), tmp_path / "x.png")
    assert np.all(read(tmp_path / "x.png", bits=12) == 255)


def test_portable_maps_say_their_scale(tmp_path):
    values = np.arange(30).reshape(6, 5) * 100
    (tmp_path / "x.pgm").write_bytes(b"P5 5 6 4095\n" + values.astype(">u2").tobytes())
    assert images.bits_of([tmp_path / "x.pgm"], threads=1) == 16
    expected = values / 4095 * 255
    np.testing.assert_allclose(read(tmp_path / "x.pgm")[..., 0], expected, atol=1)


@pytest.mark.parametrize("value", [-1, 65536])
def test_more_than_16_bits_are_refused(tmp_path, value):
    values = np.zeros((6, 5), np.int32)
    values[1, 2] = value
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif cannot be read as an image: .* 16 bits"):
        read(tmp_path / "x.tif")


def test_workers_fit_into_memory():
    assert images.workers_within(10**9, 32, 32) == images.workers_within(10**12, 32, 32) > 1
    assert images.workers_within(3 * 10**9, 9000, 9000) == 1
    assert images.threads_within(10**9, 32, 32) == 1  # Python runs one of them at a time
    assert images.threads_within(10**9, 65, 65) == images.workers_within(10**9, 65, 65)
