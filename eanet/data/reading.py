"""What a recipe makes of examples where they are stored, in this process or in a worker."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eanet.data import images as images_lib
from eanet.data import record_files, tfds_files
from eanet.data import resize as resize_lib
from eanet.data.base import Recipe, Reference, example_digest
from eanet.data.crop import Crop, cut
from eanet.errors import UserError

# Pixels, those of a part of it, and label.
Example = tuple[np.ndarray, np.ndarray, int]

# In place of the label, of an example that cannot be read.
UNREADABLE = -(2**31)


def survey_type(channels: int) -> np.dtype:
    """Of what is recorded of an example: its label, sums of its pixels, and a digest of both.

    The sums are those of the values and of their squares, by channel.
    """
    sums = ("sums", np.uint64, (2, channels))
    return np.dtype([("label", np.int32), sums, ("digest", np.uint8, 32)])


def room(what: str, recipe: Recipe, count: int) -> np.ndarray:
    """An array for what `look` sees of so many examples."""
    if what == "pixels":
        return np.empty((count, *recipe.image_shape), np.uint8)
    return np.zeros(count, survey_type(recipe.image_shape[2]))


def look(
    what: str,
    recipe: Recipe,
    references: Sequence[Reference],
    out: np.ndarray,
    digests: Sequence[str] | None = None,
    crops: Sequence[Crop] | None = None,
) -> None:
    """Fills an array of `room` with the "pixels" of examples, or a "survey" of them.

    `digests`, in hexadecimal, are those of their survey. With `crops` the pixels are those of a
    part of each example, in the same size.

    Raises:
        UserError: the pixels of one cannot be read, or are others than in the survey; a survey goes
            on.
    """
    for place, reference in enumerate(references):
        try:
            crop = Crop(*crops[place]) if crops else None
            pixels, part, label = _FORMS[recipe.form](recipe, reference, crop)
        except UserError:
            if what == "pixels":
                raise
            out[place]["label"] = UNREADABLE
            continue
        if digests is not None and _digest(recipe, pixels, label).hex() != digests[place]:
            raise UserError(
                f"{reference[0]} has changed since the start; put back what it was, or begin "
                "another run"
            )
        out[place] = part if what == "pixels" else _surveyed(recipe, pixels, label)


def _surveyed(recipe: Recipe, pixels: np.ndarray, label: int) -> tuple[int, np.ndarray, np.ndarray]:
    flat = pixels.reshape(-1, pixels.shape[-1])
    squares = np.square(flat, dtype=np.uint16)
    sums = np.stack([values.sum(axis=0, dtype=np.uint64) for values in (flat, squares)])
    return label, sums, np.frombuffer(_digest(recipe, pixels, label), np.uint8)


def _digest(recipe: Recipe, pixels: np.ndarray, label: int) -> bytes:
    # A label that is none is refused by the caller, who sees all.
    name = recipe.class_names[label] if 0 <= label < len(recipe.class_names) else ""
    return example_digest(pixels, name)


def _views(image: Any, recipe: Recipe, crop: Crop | None) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of an image of Pillow, and of the part of it that is asked for, if one is."""
    height, width, _ = recipe.image_shape
    whole = resize_lib.pixels(image, recipe.image_shape, recipe.resize)
    if crop is None:
        return whole, whole
    return whole, np.asarray(cut(image, (height, width), crop)).reshape(whole.shape)


def _file(recipe: Recipe, reference: Reference, crop: Crop | None) -> Example:
    path, label = reference
    height, width, channels = recipe.image_shape
    with images_lib.decoded(
        Path(path),
        channels=channels,
        bits=recipe.bits or 16,
        size=None if recipe.resize else (height, width),
    ) as image:
        return *_views(image, recipe, crop), label


def _record(recipe: Recipe, reference: Reference, crop: Crop | None) -> Example:
    path, place = reference
    name = f"{path} (record at {place})"
    try:
        record = record_files.record(recipe.form, Path(path), place)
        with tfds_files.example(record, recipe, name) as (image, label):
            return *_views(image, recipe, crop), label
    except UserError:
        raise
    except Exception as error:  # damaged files make the readers raise almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{name} cannot be read: {reason}") from None


_FORMS: dict[str, Callable[[Recipe, Reference, Crop | None], Example]] = {
    "file": _file,
    "array_record": _record,
    "tfrecord": _record,
}
