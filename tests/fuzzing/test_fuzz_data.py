"""Whatever lies in a folder of images or an archive: it is read, or one line refuses it."""

import dataclasses
import hashlib
import io
import os
import struct
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from eanet.data import cifar, tfds
from eanet.data.load import load_dataset
from tests.helpers.fuzz import cases, tried


@pytest.fixture(autouse=True, scope="module")
def fast_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


SIZE = (6, 5)
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"]
MODES += ["HSV", "I", "F", "I;16", "I;16B"]
FORMATS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "BMP": ".bmp",
    "GIF": ".gif",
    "WEBP": ".webp",
    "TIFF": ".tiff",
    "PPM": ".ppm",
    "MPO": ".jpeg",
    # Not read, whatever they are called.
    "ICO": ".png",
    "TGA": ".bmp",
    "EPS": ".jpg",
    "PDF": ".png",
    "DDS": ".tif",
    "JPEG2000": ".jpg",
}
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "transparency": st.sampled_from([0, 1, 300, b"\0\x80\xff", (1, 2, 3), b""]),
        "compression": st.sampled_from(["tiff_lzw", "group4", "jpeg", "packbits", "raw"]),
        "lossless": st.booleans(),
        "progressive": st.booleans(),
        "bits": st.sampled_from([1, 2, 4]),
        "orientation": st.sampled_from([0, 1, 3, 5, 6, 8, 9, 65535, "6"]),
        "frames": st.integers(2, 3),
        "icc_profile": st.binary(min_size=1, max_size=9),
    },
)


@st.composite
def pictures(draw) -> tuple[str, bytes]:
    """The suffix and the content of a file that Pillow wrote, or of a plain one where it cannot."""
    kind = draw(st.sampled_from(list(FORMATS)))
    size = draw(st.sampled_from([SIZE] * 6 + [(5, 6), (1, 1), (0, 5), (300, 2)]))
    pixels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0]) * 7
    options = draw(OPTIONS)
    if "orientation" in options:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = options.pop("orientation")
    content = io.BytesIO()
    try:
        image = Image.fromarray(pixels).convert(draw(st.sampled_from(MODES)))
        if "frames" in options:
            others = [image.rotate(90 * turn) for turn in range(1, options.pop("frames"))]
            options |= {"save_all": True, "append_images": others}
        image.save(content, kind, **options)
    except Exception:  # what Pillow cannot write is no case
        content = io.BytesIO()
        Image.new("RGB", SIZE).save(content, kind := "PNG")
    return FORMATS[kind], content.getvalue()


@st.composite
def damaged(draw) -> tuple[str, bytes]:
    """A picture cut short, with bytes replaced, or with something else behind it."""
    suffix, content = draw(pictures())
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.sampled_from([start, start + 1, start + 4, len(content)]))
        content = content[:start] + draw(st.binary(max_size=4)) + content[end:]
    return suffix, content


def png_of(width: int, height: int, *extra: tuple[bytes, bytes], depth: int = 8) -> bytes:
    """A PNG that claims a size its data does not have, with more chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


SIZES = st.sampled_from([0, 1, 5, 2**15, 60_000, 2**31 - 1, 2**32 - 1])
TEXT_BOMB = b"comment\0\0" + zlib.compress(bytes(70_000_000), 9)
BOMBS = st.one_of(
    st.builds(png_of, SIZES, SIZES, depth=st.sampled_from([0, 3, 8, 16])).map(
        lambda content: (".png", content)
    ),
    st.tuples(SIZES, SIZES).map(lambda s: (".ppm", b"P6 %d %d 255\n" % s + bytes(90))),
    st.tuples(SIZES, SIZES).map(
        lambda s: (
            ".bmp",
            b"BM" + struct.pack("<IIIIIIHHIIIIII", 54, 0, 54, 40, *s, 1, 24, *[0] * 6),
        )
    ),
    st.tuples(SIZES, SIZES).map(
        lambda s: (".gif", b"GIF89a" + struct.pack("<HH", s[0] % 2**16, s[1] % 2**16) + bytes(9))
    ),
    st.just((".png", png_of(*SIZE, (b"zTXt", TEXT_BOMB)))),
    st.just((".png", png_of(*SIZE, (b"iCCP", TEXT_BOMB)))),
)
FILES = st.one_of(
    pictures(),
    damaged(),
    BOMBS,
    st.tuples(st.sampled_from([*FORMATS.values(), ".svg", ""]), st.binary(max_size=40)),
)


def loop(path):
    path.symlink_to(path)


# What stands in the place of a file and is none.
ODDITIES = [
    loop,
    lambda path: path.symlink_to(path.parent.parent),
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.symlink_to("/dev/zero"),
    Path.mkdir,
    os.mkfifo,
    lambda path: (path.mkdir(), loop(path / "x.png")),
    lambda path: (path.write_bytes(b"x"), path.chmod(0)),
]
STEMS = st.sampled_from([b"x", b"-x", b".x", b"x\n\ny", b"\xff\xfe", b"\x1b[31m", b" ", b"x" * 240])
STEMS |= st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=9
).map(str.encode)
PLACES = st.sampled_from(["train/a"] * 6 + ["test/a", "train/b", "train", "test", ""])


def state_of(root):
    """All there is below a directory, without following links."""
    return sorted(
        (os.path.join(place, name), os.lstat(os.path.join(place, name)).st_mtime_ns)
        for place, folders, files in os.walk(root)
        for name in [*folders, *files]
    )


@cases(few=80, share=2)
@given(PLACES, STEMS, FILES | st.sampled_from(ODDITIES), st.sampled_from([0.0, 0.5, 0.9]))
@example("train/a", b"x", (".png", png_of(60_000, 60_000)), 0.0)
@example("train/a", b"\xff", (".png", b""), 0.0)
def test_folders_of_images(place, stem, file, val_fraction):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "images")
        for part in ("train/a", "test/a"):
            (root / part).mkdir(parents=True)
            Image.new("L", SIZE, 77).save(root / part / "plain.png")
        (root / place).mkdir(exist_ok=True)
        if callable(file):
            file(root / place / (os.fsdecode(stem) + ".png"))
        else:
            (root / place / (os.fsdecode(stem) + file[0])).write_bytes(file[1])
        before = state_of(root)

        def load():
            return load_dataset(
                f"folder:{root}",
                val_fraction=val_fraction,
                val_split="random",
                cache_dir=Path(name, "cache"),
                log=lambda line: None,
            )

        loaded = tried("image folders", load)
        assert state_of(root) == before
        if loaded is not None:
            again = load()
            for part in ("train", "val", "test"):
                one, other = getattr(loaded, part), getattr(again, part)
                assert one.images.dtype == np.uint8 and one.images.shape[1:3] == SIZE[::-1]
                np.testing.assert_array_equal(one.images, other.images)
                np.testing.assert_array_equal(one.labels, other.labels)


SMALL = dataclasses.replace(cifar.ARCHIVES["cifar100"], examples_per_file={"train": 3, "test": 2})
MEMBERS = {SMALL.train[0]: bytes(3 * 3074), SMALL.test[0]: bytes(2 * 3074)}
MEMBERS[SMALL.class_names] = b"one two three"
NAMES = [*MEMBERS, "../outside", "/tmp/eanet-outside", "cifar-100-binary/../../outside", "x" * 300]
TYPES = [tarfile.REGTYPE] * 4 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE]
TYPES += [tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, b"?"]


@st.composite
def archives(draw) -> bytes:
    """An archive with more or other members than it should have, or with bytes replaced."""
    plain = draw(st.permutations(list(MEMBERS.items())))
    odd = st.tuples(st.sampled_from(NAMES), st.sampled_from([b"", b"one two", bytes(20_000)]))
    content = io.BytesIO()
    with tarfile.open(
        fileobj=content, mode=draw(st.sampled_from(["w:gz"] * 4 + ["w", "w:xz"]))
    ) as tar:
        for name, body in [*plain[draw(st.integers(0, 1)) :], *draw(st.lists(odd, max_size=3))]:
            info = tarfile.TarInfo(name)
            info.type = draw(st.sampled_from([tarfile.REGTYPE] * 20 + TYPES))
            info.linkname = draw(st.sampled_from(["", "../../outside", "/etc/passwd", *MEMBERS]))
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    packed = content.getvalue()
    if draw(st.booleans()):
        start = draw(st.integers(0, len(packed)))
        packed = packed[:start] + draw(st.binary(max_size=3)) + packed[start + 1 :]
    return packed


@cases(few=40, share=0.5)
@given(archives() | st.binary(max_size=50), st.booleans())
def test_archives(content, official):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        root = Path(name)
        for folder in ("data", "here", "cache"):
            (root / folder).mkdir()
        (root / "data" / SMALL.file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest() if official else "0" * 64
        known = dataclasses.replace(SMALL, size=len(content), sha256=digest)
        patch.setitem(cifar.ARCHIVES, "cifar100", known)
        patch.setattr(tfds, "prepare", lambda *_: "it is not prepared in a test")
        patch.setenv("EANET_CIFAR_MIRROR", "http://127.0.0.1:9")
        patch.setenv("no_proxy", "*")
        patch.chdir(root / "here")
        before = [entry for entry in state_of(root) if not entry[0].endswith("cache")]

        def load():
            return load_dataset(
                "cifar100",
                data_dir=root / "data",
                cache_dir=root / "cache",
                val_fraction=0,
                log=lambda line: None,
            )

        loaded = tried("archives", load)
        assert loaded is None or (official and len(loaded.train) == 3 and len(loaded.test) == 2)
        after = [entry for entry in state_of(root) if not entry[0].startswith(f"{root}/cache")]
        assert after == before and not Path("/tmp/eanet-outside").exists()
        assert all(path.name.startswith("cifar100-") for path in (root / "cache").iterdir())
