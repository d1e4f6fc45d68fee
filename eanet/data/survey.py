"""A source that stays where it is: every image is looked at once, and what was seen is kept.

That is its label, the sums that mean and deviation of any part come from, and a digest: all that
the pixels of all images are needed for before training. So a data set has the same statistics and
the same fingerprint whether it is streamed or decoded as a whole.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from eanet.data import images as images_lib
from eanet.data.base import (
    Decoded,
    Log,
    Recipe,
    Reference,
    Source,
    Split,
    Storage,
    check_memory,
    content_fingerprint,
)
from eanet.data.cache import Kept, find, kept
from eanet.data.reading import UNREADABLE, look, room
from eanet.data.stored import StoredImages
from eanet.data.workers import Workers
from eanet.errors import UserError

# Examples that a worker is asked for at once, and how many such tasks wait for one.
_TASK, _WAITING = 64, 256
_SECONDS = 60  # between two lines of progress
_FEW = 3  # images in a message

References = Mapping[str, Sequence[Reference]]


def streamed(source: Source, cache_dir: Path, log: Log) -> Decoded:
    """The source, which must have a `storage`, with images that stay there.

    Raises:
        UserError: some of them cannot be read.
    """
    assert source.storage
    references = source.storage.references()

    def survey() -> Kept:
        return _survey(source, references, log)

    found = kept(_surveyed(source), cache_dir, log, "looking at all images of", survey)
    if {part: len(of_part) for part, of_part in found.arrays.items()} != {
        part: len(listed) for part, listed in references.items()
    }:
        raise UserError(f"{source.place} changes while it is read; start the command again")
    fields = {field.name for field in dataclasses.fields(Recipe)}
    recipe = Recipe(**{name: fact for name, fact in found.facts.items() if name in fields})
    return Decoded(
        _splits(source.storage, recipe, references, found.arrays),
        recipe.class_names,
        found.facts["splits"],
        source.place,
        recipe.bits,
        found.facts["skipped"],
    )


def surveyed_bytes(source: Source, cache_dir: Path) -> int:
    """Of all images, were they decoded; 0 where they have not been looked at yet."""
    found = find(_surveyed(source), cache_dir)
    if found is None:
        return 0
    return sum(map(len, found.arrays.values())) * int(np.prod(found.facts["image_shape"]))


def _surveyed(source: Source) -> Source:
    return dataclasses.replace(source, identity=f"{source.identity}:survey")


def _survey(source: Source, references: References, log: Log) -> Kept:
    assert source.storage
    recipe, notes = source.storage.recipe()
    check_memory(1, recipe.image_shape, source.name)
    for note in notes:
        log(f"{source.name}: {note}")
    seen = {part: room("survey", recipe, len(listed)) for part, listed in references.items()}
    told, total = time.monotonic(), sum(map(len, seen.values()))

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > _SECONDS:
            told = time.monotonic()
            log(f"{source.name}: {done:,} of {total:,} images looked at")

    _look_at_all(recipe, references, seen, tell)
    skipped, facts = _check(source, recipe, references, seen, log), dataclasses.asdict(recipe)
    fingerprints = {
        part: content_fingerprint(split, recipe.class_names, ordered=part == "train")
        for part, split in _splits(source.storage, recipe, references, seen).items()
    }
    return Kept(seen, {"splits": fingerprints, "skipped": skipped, **facts})


def _splits(
    storage: Storage, recipe: Recipe, references: References, seen: Mapping[str, np.ndarray]
) -> dict[str, Split]:
    workers, splits = Workers(recipe), {}
    for part, of_part in seen.items():
        labels = np.array(of_part["label"])
        every = Split(StoredImages(workers, references[part], of_part), labels)
        splits[part] = every[labels != UNREADABLE]
    return storage.divide(splits)


def _look_at_all(
    recipe: Recipe,
    references: References,
    seen: Mapping[str, np.ndarray],
    tell: Callable[[int], Any],
) -> None:
    waiting: deque[tuple[int, Future[None]]] = deque()
    done = 0

    def wait() -> None:
        nonlocal done
        count, task = waiting.popleft()
        task.result()
        done += count
        tell(done)

    workers = Workers(recipe)
    with workers.running():
        for part, listed in references.items():
            for start in range(0, len(listed), _TASK):
                out = seen[part][start : start + _TASK]
                asked = [listed[place] for place in range(start, start + len(out))]
                waiting.append((len(out), workers.submit("survey", asked, out)))
                if len(waiting) > _WAITING:
                    wait()
        while waiting:
            wait()


def _check(
    source: Source,
    recipe: Recipe,
    references: References,
    seen: Mapping[str, np.ndarray],
    log: Log,
) -> int:
    """How many images cannot be read; raises `UserError` unless these may be left out."""
    assert source.storage
    bad = [
        references[part][place]
        for part, of_part in seen.items()
        for place in np.flatnonzero(of_part["label"] == UNREADABLE).tolist()
    ]
    if not bad:
        return 0
    total = sum(map(len, seen.values()))
    reasons = "; ".join(_reason(recipe, reference) for reference in bad[:_FEW])
    told = f"{len(bad):,} of {total:,} images cannot be read: {reasons}"
    told += "; …" if len(bad) > _FEW else ""
    if not source.storage.skips_bad:
        advice = "mend or remove them"
        if recipe.form == "file":
            advice += ", or leave them out by --config.dataset.on_bad_image=skip"
        raise UserError(f"{told}; {advice}")
    for part, of_part in seen.items():
        if np.all(of_part["label"] == UNREADABLE):
            raise UserError(f"no image of {part} can be read: {told}")
    log(f"{source.name}: {told}; skipped")
    return len(bad)


@images_lib.quietly()
def _reason(recipe: Recipe, reference: Reference) -> str:
    try:
        look("pixels", recipe, [reference], room("pixels", recipe, 1))
    except UserError as error:
        return str(error)
    return f"{reference[0]} could not be read before"
