"""A plain folder of images: `train/CLASS/*.png` with `test/CLASS/…` or `val/CLASS/…`.

- The classes are the folders under `train`, sorted by name. Hidden files are ignored; anything
  else that is not an image is an error, so that no example goes missing unnoticed.
- Where only `val` exists it is the held-out test split (as in ImageNet's layout).
- All images must have one size. They become one channel if every one of them is greyscale, else
  RGB. Palettes, CMYK and YCbCr are converted; transparent pixels are laid over white; of
  16-bit greyscale the high byte counts; the EXIF orientation is applied. Animations, more than
  16 bits, and images so large that Pillow suspects a decompression bomb are refused.
- The order of the examples is a hash of their paths: fixed, and any tail is a fair sample.
"""

import contextlib
import hashlib
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eanet.data.base import Decoded, Source, Split, Wanted, empty_images, fingerprint
from eanet.errors import UserError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Formats Pillow decodes by itself: no PostScript, which would start a foreign program. What Pillow
# calls MPO, a photograph with previews, it opens as a JPEG.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREYSCALE_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B")
_COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]
    greyscale: bool


def folder_source(path: str, wanted: Wanted) -> Source:
    """Lists the folder; the images are only opened by `Source.read`.

    Raises:
        UserError: no such folder, or not the layout above.
    """
    root = Path(os.path.realpath(os.path.expanduser(path)))
    if not path or not os.path.isdir(root):
        raise UserError(f"folder:{path}: there is no such folder; write folder:PATH")
    parts = _parts(root, wanted.part)
    class_names = tuple(entry.name for entry in _entries(parts[wanted.part or "train"]))
    files: dict[str, list[Path]] = {}
    stats: list[tuple[str, os.stat_result]] = []
    for part, folder in parts.items():
        files[part] = []
        for entry in _entries(folder):
            if not os.path.isdir(entry.path):
                raise UserError(f"{entry.path} lies beside the class folders; move it away")
            if entry.name not in class_names:
                raise UserError(f"{entry.path}: there is no class {entry.name!r} in train")
            listed = _images(Path(entry.path))
            files[part] += [path for path, _ in listed]
            stats += [(os.path.relpath(path, root), result) for path, result in listed]
        if not files[part]:
            raise UserError(f"{folder} holds no class folders with images")
        files[part].sort(key=lambda path: _shuffling_key(path, root))
    return Source(
        f"folder:{root.name}",
        f"folder:{root}" + (f":{wanted.part}:{wanted.channels}" if wanted.part else ""),
        fingerprint(stats),
        lambda: _read_quietly(root, files, class_names, wanted.channels),
        str(root),
    )


def _parts(root: Path, only: str | None) -> dict[str, Path]:
    parts = {part: root / part for part in ("train", "val", "test") if os.path.isdir(root / part)}
    if "test" not in parts and "val" in parts and only != "val":
        parts["test"] = parts.pop("val")
    if only is None and not {"train", "test"} <= parts.keys():
        raise UserError(f"{root} must hold train/CLASS/*.png and test/CLASS/… or val/CLASS/…")
    if only is not None and only not in parts:
        raise UserError(f"{root} must hold {only}/CLASS/*.png")
    return parts if only is None else {only: parts[only]}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    return sorted(visible, key=lambda entry: entry.name)


def _images(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The image files of one class. Never descends, so that no loop of links can hold it."""
    images = []
    for entry in _entries(folder):
        if not entry.name.lower().endswith(_SUFFIXES):
            raise UserError(f"{entry.path} is not an image ({' '.join(_SUFFIXES)}); move it away")
        try:
            result = entry.stat()
        except OSError as error:
            raise UserError(f"{entry.path} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(result.st_mode):
            raise UserError(f"{entry.path} is not a file; move it away")
        images.append((Path(entry.path), result))
    if not images:
        raise UserError(f"{folder} holds no images; add some or remove the class")
    return images


def _shuffling_key(path: Path, root: Path) -> bytes:
    return hashlib.sha256(os.fsencode(path.relative_to(root))).digest()


def _read_quietly(
    root: Path,
    files: dict[str, list[Path]],
    class_names: tuple[str, ...],
    channels: int | None,
) -> Decoded:
    from PIL import Image

    with warnings.catch_warnings(), _without_stderr():
        warnings.simplefilter("ignore")  # of an image that can be read all the same
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _read(root, files, class_names, channels)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keeps libtiff's own words off the terminal: of a file that it cannot read, an error tells."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _read(
    root: Path,
    files: dict[str, list[Path]],
    class_names: tuple[str, ...],
    channels: int | None,
) -> Decoded:
    first, greyscale = None, channels != 3
    for path in (path for paths in files.values() for path in paths):
        header = _header(path)
        first = first or (path, header.size)
        if header.size != first[1]:
            raise UserError(
                f"all images must have one size: {first[0]} has {_text(first[1])}, "
                f"{path} has {_text(header.size)}"
            )
        if channels == 1 and not header.greyscale:
            raise UserError(f"{path} has colours, but the images must be greyscale")
        greyscale &= header.greyscale
    assert first is not None
    width, height = first[1]
    mode, channels = ("L", 1) if greyscale else ("RGB", 3)
    count = sum(map(len, files.values()))
    room = empty_images(count, (height, width, channels), root)
    splits, start = {}, 0
    for part, paths in files.items():
        images = room[start : start + len(paths)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for index, pixels in enumerate(pool.map(lambda path: _decode(path, mode), paths)):
                images[index] = pixels.reshape(height, width, channels)
        labels = np.array([class_names.index(path.parent.name) for path in paths], np.int32)
        splits[part] = Split(images, labels)
        start += len(paths)
    return Decoded(splits, class_names)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _header(path: Path) -> _Header:
    """Size and colour of an image that can be converted, without decoding its pixels."""
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as image:
            # The frames of an MPO are previews, no animation.
            animated = getattr(image, "is_animated", False) and image.format != "MPO"
            orientation = image.getexif().get(_ORIENTATION, 1)
            mode, (width, height) = image.mode, image.size
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise _unreadable(path, error) from None
    if animated:
        raise UserError(f"{path} is animated; keep one frame of it")
    if mode not in _GREYSCALE_MODES + _COLOUR_MODES:
        raise UserError(f"{path} has pixels of kind {mode!r}; save it as 8-bit RGB or greyscale")
    size = (height, width) if orientation in (5, 6, 7, 8) else (width, height)
    return _Header(size, mode in _GREYSCALE_MODES)


def _decode(path: Path, mode: str) -> np.ndarray:
    """Pixels `uint8[H, W]` for mode L, `uint8[H, W, 3]` for RGB."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_FORMATS) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):
                high_bytes = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
                image = Image.fromarray(high_bytes)
            elif image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return np.asarray(image.convert(mode))
    except Exception as error:  # as above
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path} cannot be read as an image: {reason}")
