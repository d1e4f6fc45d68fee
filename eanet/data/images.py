"""Image files as uint8 pixels: whatever Pillow decodes by itself.

Palettes, CMYK, YCbCr and Lab are converted; transparent pixels are laid over white; the EXIF
orientation is applied. Animations, values of more than 16 bits or with a fraction, and images so
large that Pillow suspects a decompression bomb are refused.

Of 16-bit files Pillow keeps the high bytes, which are zero where a camera of 12 bits or a mask has
written its values as they are. Here the values are shifted by as many bits as those of all images
of the data set have in common; it is for the caller to find these (`bits`) and to keep to them.
"""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eanet import files
from eanet.data import resize as resize_lib
from eanet.errors import UserError

# Recognised by their content, whatever the file is called; other formats by their endings too.
_COMMON_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# Pillow only recognises these, or starts another program for them.
_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
_GREYSCALE_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B")
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
# Layouts of 16-bit values that Pillow can unpack in either order of the bytes, or as four bytes.
_DEEP_LAYOUT = re.compile(r"(RGB|RGBA|RGBX);16[BLN]|LA;16B")
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
# Of a pixel, while an image is decoded and converted.
_BYTES_IN_WORK = 32
# In pixels: of these most of the time goes to Python, which one thread runs at a time, so that two
# wait for each other. From about this size on they are faster than one.
_SMALL = 64 * 64


@dataclass(frozen=True)
class Header:
    """What a file says of its image: its size as it is shown, and the kind of its values."""

    height: int
    width: int
    greyscale: bool
    deep: bool  # more than 8 bits a value


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps warnings, and what libtiff itself says, off the terminal; a bomb is an error."""
    from PIL import Image

    with warnings.catch_warnings(), contextlib.ExitStack() as afterwards:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with contextlib.suppress(OSError):  # it may be closed
            afterwards.callback(os.close, terminal := os.dup(2))
            if sys.stderr:
                sys.stderr.flush()
            with open(os.devnull, "w") as nowhere:
                afterwards.callback(os.dup2, terminal, 2)
                os.dup2(nowhere.fileno(), 2)
        yield


def read_header(path: Path) -> Header:
    """Looks at an image without decoding its pixels.

    Raises:
        UserError: it cannot be read, or not be converted.
    """
    from PIL import Image

    with _opened(path) as image:
        _check_kind(image, path)
        # Not `image.getexif()`, which would decode a PNG to look behind its pixels.
        turned = Image.Image.getexif(image).get(_ORIENTATION) in _TURNED
        turned &= image.format != "TIFF"  # has its size as it is shown
        mode, (width, height) = image.mode, image.size
        deep = _is_deep(image)
    if turned:
        height, width = width, height
    return Header(height, width, mode in _GREYSCALE_MODES, deep)


def bits_of(paths: list[Path], threads: int) -> int:
    """How many bits, from 8 to 16, hold every value of these deep images; alpha does not count.

    Those that cannot be read are left out; `decode` tells of them.
    """

    def largest(path: Path) -> int:
        try:
            with _opened(path) as image:
                return int(_deep_values(image, path)[..., :3].max())
        except UserError:
            return 0

    with ThreadPoolExecutor(threads) as pool:
        return max(8, max(pool.map(largest, paths)).bit_length())


def decode(
    paths: list[Path],
    images: np.ndarray,
    *,
    bits: int,
    threads: int,
    resize: str | None = None,
) -> dict[Path, UserError]:
    """Decodes each file into its place in `uint8[N, H, W, 1 or 3]`; nothing else is kept of it.

    Values of deep images are taken as of so many bits, see `bits_of`; larger ones become white.
    Images of another size are resized as `read` does it, and without `resize` are not read.
    Returned are the files that cannot be read, in their order, and why; their places hold nothing.
    """

    def into(pixels: np.ndarray, path: Path) -> UserError | None:
        height, width, channels = pixels.shape
        try:
            pixels[:], _ = read(
                path, channels=channels, bits=bits, size=(height, width), resize=resize
            )
        except UserError as error:
            return error
        return None

    with ThreadPoolExecutor(threads) as pool:
        failed = zip(paths, pool.map(into, images, paths), strict=True)
        return {path: error for path, error in failed if error}


def read(
    path: Path, *, channels: int, bits: int, size: tuple[int, int], resize: str | None
) -> tuple[np.ndarray, bool]:
    """The image as `uint8[H, W, 1 or 3]`, for training as for prediction.

    An image that has not this height and width is resized, see `eanet.data.resize.RESIZES`; that it
    had not is the second value.

    Raises:
        UserError: it cannot be read, or not be converted; or it has another size, and `resize` is
            None.
    """
    with decoded(path, channels=channels, bits=bits, size=None if resize else size) as image:
        other = image.size != (size[1], size[0])
        return resize_lib.pixels(image, (*size, channels), resize), other


@contextlib.contextmanager
def decoded(path: Path, *, channels: int, bits: int, size: tuple[int, int] | None) -> Iterator[Any]:
    """An image of Pillow, greyscale or RGB, as large as it is stored.

    Raises:
        UserError: it cannot be read, or not be converted; or it has another height and width than
            `size` says, where that is given; or something in the context fails.
    """
    with _opened(path) as opened:
        _check_kind(opened, path)
        image = _converted(opened, path, channels, bits)
        if size and image.size != (size[1], size[0]):
            raise ValueError("it has another size than its header says")
        yield image


def is_image_name(name: str) -> bool:
    """Whether a file is an image by the ending of its name, as all that are decoded must be."""
    return _format_of(name) is not None


def workers_within(memory: int, height: int, width: int) -> int:
    """How many images of this size may be decoded at once in so many bytes; at least one."""
    return max(1, min(os.cpu_count() or 1, memory // max(1, height * width * _BYTES_IN_WORK)))


def threads_within(memory: int, height: int, width: int) -> int:
    """The same for threads of one process; one for small images, which more decode no sooner."""
    return 1 if height * width <= _SMALL else workers_within(memory, height, width)


def _converted(opened: Any, path: Path, channels: int, bits: int) -> Any:
    from PIL import Image, ImageOps

    image = opened
    if _is_deep(image):
        values = _deep_values(opened, path)
        colours = np.minimum(values >> (bits - 8), 255).astype(np.uint8)
        if values.shape[2:] == (4,):
            colours[..., 3] = values[..., 3] >> 8  # alpha has all 16 bits
        image = Image.fromarray(colours)
        if orientation := opened.getexif().get(_ORIENTATION):
            image.getexif()[_ORIENTATION] = orientation
    if image.mode == "LAB":
        image = _from_lab(image)
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")


def _from_lab(image: Any) -> Any:
    """The image in sRGB; only the colour management of Pillow knows L*a*b*."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    image.load()
    converted = ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    if orientation := image.getexif().get(_ORIENTATION):
        converted.getexif()[_ORIENTATION] = orientation
    return converted


def _check_kind(image: Any, path: Path) -> None:
    # The frames of what Pillow calls MPO are previews of a photograph.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UserError(f"{path} is animated; keep one frame of it")
    if image.mode not in _GREYSCALE_MODES + _COLOUR_MODES:
        raise UserError(
            f"{path} has pixels of kind {image.mode!r}; save it as 8-bit RGB or greyscale"
        )


def _is_deep(image: Any) -> bool:
    return image.mode.startswith("I") or _deep_layout(image) is not None


def _deep_layout(image: Any) -> str | None:
    """How 16-bit colours lie in the file, as Pillow names it, where their low bytes can be had."""
    arguments = image.tile[0].args if image.tile else None
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return layout if isinstance(layout, str) and _DEEP_LAYOUT.fullmatch(layout) else None


def _deep_values(image: Any, path: Path) -> np.ndarray:
    """`uint16[H, W]` of greyscale, else `uint16[H, W, 3 or 4]`."""
    layout = _deep_layout(image)
    if layout is None:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("its values have more than 16 bits")
        return values.astype(np.uint16)
    if layout == "LA;16B":  # has four bytes a pixel, as RGBA has
        high, low, alpha, _ = np.moveaxis(np.asarray(_relaid(image, "RGBA")), -1, 0)
        grey = high.astype(np.uint16) << 8 | low
        return np.stack([grey, grey, grey, alpha.astype(np.uint16) << 8], axis=-1)
    with _opened(path) as other:
        low = np.asarray(_relaid(other, layout[:-1] + _OTHER_BYTE[layout[-1]]))
    return np.asarray(image).astype(np.uint16) << 8 | low


def _relaid(image: Any, layout: str) -> Any:
    """The image, with its file to be taken as of another layout."""
    image.tile = [
        tile._replace(args=(layout, *tile.args[1:]) if isinstance(tile.args, tuple) else layout)
        for tile in image.tile
    ]
    return image


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An image of Pillow; whatever becomes of it inside is one line for the user."""
    from PIL import Image, UnidentifiedImageError

    name = _format_of(path.name)
    if name is None:
        raise UserError(f"{path} is not an image, by its ending; leave it out")
    try:
        with (
            os.fdopen(files.open_regular(path, follow=True), "rb") as file,
            Image.open(file, formats=(*_COMMON_FORMATS, name)) as image,
        ):
            yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path} cannot be read as an image: no format fits it") from None
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        reason = reason or type(error).__name__
        raise UserError(f"{path} cannot be read as an image: {reason}") from None


def _format_of(name: str) -> str | None:
    """What Pillow calls the format of this ending; None for one that is not decoded."""
    from PIL import Image

    found = Image.registered_extensions().get(os.path.splitext(name)[1].lower())
    found = "JPEG" if found == "MPO" else found
    return found if found in Image.OPEN and found not in _NOT_DECODED else None
