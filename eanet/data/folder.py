"""A data set of one's own: a folder of images, or a table of them, see `eanet.data.listing`.

Images become one channel if every one of them is greyscale, else RGB, see `eanet.data.images`. All
16-bit images have one scale, that of the largest value. Without a size that is asked for, all must
have the same one. All headers are looked at before any pixel is decoded, and all that is at fault
by then is named in one line: the first few, and how many there are.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eanet.data import images as images_lib
from eanet.data.base import (
    Decoded,
    Recipe,
    Reference,
    Source,
    Split,
    Storage,
    Wanted,
    budget,
    check_memory,
    empty_images,
)
from eanet.data.images import Header
from eanet.data.listing import Listing, list_images
from eanet.errors import UserError

_FEW = 3  # files in a message


def folder_source(path: str, wanted: Wanted) -> Source:
    """Lists the images; they are only opened by `Source.read`.

    Raises:
        UserError: no such folder or table, or not as `eanet.data.listing` describes.
    """
    listing = list_images(path, wanted)
    looked_at = functools.cache(functools.partial(_look_at, listing, wanted))
    only = f":{wanted.part}:{wanted.channels}:{wanted.bits}" if wanted.part else ""
    divided = "" if listing.divided else f":test{wanted.test_fraction:g}"
    skipping = ":skip" if wanted.skip_bad else ""
    told = () if listing.tested_on == "test" else (f"{listing.tested_on} is tested on",)
    return Source(
        f"folder:{listing.place.name}",
        f"folder:{listing.place}{only}{divided}{skipping}",
        listing.fingerprint,
        lambda: _read(listing, wanted, *looked_at()),
        str(listing.place),
        Storage(
            functools.partial(_references, listing),
            lambda: looked_at()[:2],
            skips_bad=wanted.skip_bad,
        ),
        listing.ignored.notes() + told,
        listing.tested_on,
    )


@images_lib.quietly()
def _read(
    listing: Listing,
    wanted: Wanted,
    recipe: Recipe,
    notes: tuple[str, ...],
    bad: dict[Path, UserError],
) -> Decoded:
    paths = [path for files in listing.parts.values() for path, _ in files if path not in bad]
    pixels = empty_images(len(paths), recipe.image_shape, listing.place)
    broken = images_lib.decode(
        paths,
        pixels,
        bits=recipe.bits or 16,
        threads=images_lib.threads_within(budget() - pixels.nbytes, *recipe.largest),
        resize=recipe.resize,
    )
    bad = bad | broken
    _refuse(bad, listing, wanted)
    if bad:
        notes += (f"{_told(bad, listing)}; skipped",)
    if broken:
        kept = [place for place, path in enumerate(paths) if path not in broken]
        for place, old in enumerate(kept):  # a copy of all might not fit the memory
            pixels[place] = pixels[old]
        pixels = pixels[: len(kept)]
    return Decoded(
        _splits(listing, bad, pixels),
        listing.class_names,
        bits=recipe.bits,
        skipped=len(bad),
        notes=notes,
    )


@images_lib.quietly()
def _look_at(
    listing: Listing, wanted: Wanted
) -> tuple[Recipe, tuple[str, ...], dict[Path, UserError]]:
    """What all headers say of how to read the images, notes, and what is wrong with some."""
    headers, bad = _headers([path for files in listing.parts.values() for path, _ in files])
    _refuse(bad, listing, wanted)
    size = wanted.image_size or _only_size(headers, listing.place)
    coloured = [path for path, header in headers.items() if not header.greyscale]
    if coloured and wanted.channels == 1:
        raise UserError(f"{coloured[0]} has colours, but the images must be greyscale")
    channels = 3 if coloured or wanted.channels == 3 else 1
    largest, header = max(headers.items(), key=lambda item: item[1].height * item[1].width)
    check_memory(1, (header.height, header.width, channels), largest)
    notes: tuple[str, ...] = ()
    deep = [path for path, header in headers.items() if header.deep]
    bits = wanted.bits if deep else None
    if deep and bits is None:
        bits = images_lib.bits_of(
            deep, images_lib.threads_within(budget(), header.height, header.width)
        )
        scale = f"are divided by {2 ** (bits - 8)}" if bits > 8 else "stay as they are"
        notes += (
            f"{len(deep):,} images have 16 bits a value, of which the largest of all needs {bits}: "
            f"values {scale}",
        )
    resize = wanted.resize if wanted.image_size else None
    shape, largest_size = (*size, channels), (header.height, header.width)
    recipe = Recipe("file", shape, listing.class_names, bits, resize, largest_size)
    return recipe, notes, bad


def _references(listing: Listing) -> dict[str, list[Reference]]:
    label_of = {name: label for label, name in enumerate(listing.class_names)}
    return {
        part: [(str(path), label_of[name]) for path, name in files]
        for part, files in listing.parts.items()
    }


def _headers(paths: list[Path]) -> tuple[dict[Path, Header], dict[Path, UserError]]:
    """Of the images in their order, and what is wrong with the others."""
    headers, bad = {}, {}
    for path in paths:
        try:
            headers[path] = images_lib.read_header(path)
        except UserError as error:
            bad[path] = error
    return headers, bad


def _only_size(headers: Mapping[Path, Header], place: Path) -> tuple[int, int]:
    """Height and width of all images; raises `UserError` where they have several."""
    examples: dict[tuple[int, int], Path] = {}
    counts: Counter[tuple[int, int]] = Counter()
    for path, header in headers.items():
        size = header.height, header.width
        counts[size] += 1
        examples.setdefault(size, path)
    if len(counts) > 1:
        listed = ", ".join(
            f"{width}x{height} ({count:,}, such as {examples[height, width]})"
            for (height, width), count in counts.most_common(_FEW)
        )
        more = f" and {len(counts) - _FEW:,} more" if len(counts) > _FEW else ""
        (height, width), _ = counts.most_common(1)[0]
        raise UserError(
            f"{place} has images of {len(counts):,} sizes (width x height): {listed}{more}. Say "
            "what all shall get, --config.dataset.image_size="
            f"'({height},{width})' (height, width) or smaller, and how, "
            "--config.dataset.resize=squash, crop or pad"
        )
    return next(iter(counts))


def _refuse(bad: Mapping[Path, UserError], listing: Listing, wanted: Wanted) -> None:
    """Raises `UserError` for images at fault, unless these, and not all, may be skipped."""
    if bad and not wanted.skip_bad:
        raise UserError(
            f"{_told(bad, listing)}. Mend or remove {'it' if len(bad) == 1 else 'them'}, or leave "
            "out what cannot be read by --config.dataset.on_bad_image=skip"
        )
    for part, files in listing.parts.items():
        if all(path in bad for path, _ in files):
            raise UserError(f"no image of {part} can be read: {_told(bad, listing)}")


def _told(bad: Mapping[Path, UserError], listing: Listing) -> str:
    """The first images at fault, and how many there are."""
    told = [
        f"{listing.place.name}, line {listing.lines[path]}: {error}"
        if path in listing.lines
        else str(error)
        for path, error in list(bad.items())[:_FEW]
    ]
    total = sum(map(len, listing.parts.values()))
    count = f"{len(bad):,} of {total:,} images cannot be read: " if len(bad) > 1 else ""
    return count + "; ".join(told) + ("; …" if len(bad) > _FEW else "")


def _splits(
    listing: Listing, bad: Mapping[Path, UserError], pixels: np.ndarray
) -> dict[str, Split]:
    """The parts, of the pixels of all files but the bad ones."""
    label_of = {name: label for label, name in enumerate(listing.class_names)}
    splits, start = {}, 0
    for part, files in listing.parts.items():
        labels = np.array([label_of[name] for path, name in files if path not in bad], np.int32)
        splits[part] = Split(pixels[start : start + len(labels)], labels)
        start += len(labels)
    return splits
