"""What a recipe makes of examples where they are stored, in this process or in a worker."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from eanet.data import images as images_lib
from eanet.data import record_files, tfds_files
from eanet.data.base import Recipe, Reference, example_digest
from eanet.errors import UserError

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
) -> None:
    """Fills an array of `room` with the "pixels" of examples, or a "survey" of them.

    `digests`, in hexadecimal, are those of their survey.

    Raises:
        UserError: the pixels of one cannot be read, or are others than in the survey; a survey goes
            on.
    """
    for place, reference in enumerate(references):
        try:
            pixels, label = _FORMS[recipe.form](recipe, reference)
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
        out[place] = pixels if what == "pixels" else _surveyed(recipe, pixels, label)


def _surveyed(recipe: Recipe, pixels: np.ndarray, label: int) -> tuple[int, np.ndarray, np.ndarray]:
    flat = pixels.reshape(-1, pixels.shape[-1])
    squares = np.square(flat, dtype=np.uint16)
    sums = np.stack([values.sum(axis=0, dtype=np.uint64) for values in (flat, squares)])
    return label, sums, np.frombuffer(_digest(recipe, pixels, label), np.uint8)


def _digest(recipe: Recipe, pixels: np.ndarray, label: int) -> bytes:
    # A label that is none is refused by the caller, who sees all.
    name = recipe.class_names[label] if 0 <= label < len(recipe.class_names) else ""
    return example_digest(pixels, name)


def _file(recipe: Recipe, reference: Reference) -> tuple[np.ndarray, int]:
    path, label = reference
    *size, channels = recipe.image_shape
    pixels, _ = images_lib.read(
        Path(path),
        channels=channels,
        bits=recipe.bits or 16,
        size=(size[0], size[1]),
        resize=recipe.resize,
    )
    return pixels, label


def _record(recipe: Recipe, reference: Reference) -> tuple[np.ndarray, int]:
    path, place = reference
    name = f"{path} (record at {place})"
    try:
        record = record_files.record(recipe.form, Path(path), place)
        return tfds_files.example(record, recipe, name)
    except UserError:
        raise
    except Exception as error:  # damaged files make the readers raise almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{name} cannot be read: {reason}") from None


# Of a recipe and a reference, pixels and label.
_FORMS: dict[str, Callable[[Recipe, Reference], tuple[np.ndarray, int]]] = {
    "file": _file,
    "array_record": _record,
    "tfrecord": _record,
}
