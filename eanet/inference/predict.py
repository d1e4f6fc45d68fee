"""The mode `predict`: classes and probabilities of images, without the training data."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from eanet import devices, host, signals, streams
from eanet.data.images import quietly
from eanet.display.console import Console
from eanet.display.numbers import percent
from eanet.display.progress import Count
from eanet.errors import Interrupted, UserError, printable
from eanet.inference import tables
from eanet.inference.asked import Asked
from eanet.inference.decoding import Pixels, decode_ahead
from eanet.inference.load import load
from eanet.inference.model import Model

_TOP = 5
# Of a batch; twice as much exists at once.
_MOST_IMAGES, _MOST_BYTES = 256, 2**25
_WIDEST = 60  # of a column for a person


@devices.refusals()
def predict(
    workdir: Path | str,
    images: Sequence[str],
    *,
    checkpoint: str,
    resize: str | None,
    top: int | None,
    out: Path | None,
    strict: bool,
) -> None:
    """Says what the images are, or writes it as a table.

    Args:
      workdir: of the run, or where else `eanet.load` takes a model from.
      images: what to look at, see `eanet.inference.asked`.
      checkpoint: "best" on validation, "latest", or a step.
      resize: of `eanet.data.resize.RESIZES`, for images of another size than the model's; None for
        what the model was trained with.
      top: how many classes of each image; None for five, or for all where these are fewer.
      out: the table, see `eanet.inference.tables`; replaced where it is there. None for the
        terminal.
      strict: whether an image that cannot be read is an error at the end.

    Raises:
      UserError: there are no images, or the run, the table or an argument will not do; or no image
        can be read or, where that is asked for, any cannot.
      Interrupted: if SIGTERM or SIGINT came; no table is written.
    """
    if not images:
        raise UserError("--mode=predict needs --images=PATH: a file, a folder, a glob or a list")
    if out is not None:
        tables.check(out)
    console = Console()
    asked = Asked(images, console.warn)
    model = load(workdir, checkpoint, log=console.warn)
    if unused := host.unused_accelerator():
        console.warn(unused)
    answers = _Answers(model, resize or model.record.resize_policy, _top_of(model, top))
    count = Count(console.note, live=console.interactive)
    with (
        ExitStack() as stack,
        quietly(),
        signals.stop_request() as stop,
        console.live(count),
    ):
        write: tables.Write = _Lines(console, model.class_names)
        if out is not None:
            write = stack.enter_context(tables.open_table(out, answers.top))
        for rows in answers.of(asked.paths(lambda: bool(stop))):
            for row in rows:
                if "error" in row:
                    console.warn(row["error"])
            write(rows)
            count.add(len(rows))
            if stop or (out is None and streams.output_is_lost()):
                break
        if stop:
            assert stop.signal is not None
            done = f"interrupted after {count.images:,} images"
            raise Interrupted(stop.signal, done if out is None else f"{done}: {out} is not written")
        if not count.images:
            raise UserError(f"there are no images in {', '.join(images)}")
    _summarize(console, asked, answers, count)
    if out is not None:
        console.note(f"written to {out}")
    if answers.broken or asked.unreadable:
        missing = f"{answers.broken:,} of {count.images:,} images could not be read"
        if asked.unreadable:
            missing += f", nor {asked.unreadable:,} folders"
        if strict or answers.broken == count.images:
            raise UserError(missing)
        console.warn(missing)


def _summarize(console: Console, asked: Asked, answers: "_Answers", count: Count) -> None:
    """Says what was left out and resized, and how long it took."""
    if asked.ignored:
        console.note(f"ignored besides images: {asked.ignored:,}, such as {asked.example}")
    if answers.resized:
        height, width = answers.size
        console.note(
            f"{answers.resized:,} of {count.images:,} images were resized to {width}×{height} "
            f"({answers.resize})"
        )
    console.note(str(count))


class _Answers:
    """Rows of a table from paths of images, and what became of these on the way."""

    def __init__(self, model: Model, resize: str, top: int):
        self.resized = self.broken = 0
        self.top, self.resize, self.size = top, resize, model.image_shape[:2]
        self._model = model
        size = math.prod(model.image_shape)
        self._batch = max(1, min(_MOST_IMAGES, _MOST_BYTES // size))
        model.predict(np.zeros((1, *model.image_shape), np.uint8))  # compiles it

    def of(self, paths: Iterator[str]) -> Iterator[list[tables.Row]]:
        """A row for each path, in their order, as many at once as are computed together."""
        decoded = decode_ahead(self._model.record, self.resize, paths, most=2 * self._batch)
        while batch := list(islice(decoded, self._batch)):
            images = [image for _, image in batch if isinstance(image, Pixels)]
            self.resized += sum(image.resized for image in images)
            self.broken += len(batch) - len(images)
            predictions = iter(self._predictions(images))
            yield [
                {"path": path, "error": str(image)}
                if isinstance(image, UserError)
                else {"path": path, **next(predictions)}
                for path, image in batch
            ]

    def _predictions(self, images: list[Pixels]) -> Iterator[dict[str, Any]]:
        if not images:
            return
        probabilities = self._model.predict(np.stack([image.values for image in images]))
        ranked = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top]
        for values, labels in zip(probabilities, ranked, strict=True):
            row: dict[str, Any] = {}
            for rank, label in enumerate(labels, 1):
                row[f"class_{rank}"] = self._model.class_names[label]
                row[f"probability_{rank}"] = float(str(values[label]))  # in fewest digits
            yield row


class _Lines:
    """Rows as lines for a person."""

    def __init__(self, console: Console, class_names: Sequence[str]):
        self._console = console
        self._path_width = 0
        self._class_width = min(max(map(len, class_names)), _WIDEST)

    def __call__(self, rows: Sequence[tables.Row]) -> None:
        rows = [row for row in rows if "error" not in row]
        paths = [printable(row["path"]) for row in rows]
        self._path_width = min(max([self._path_width, *map(len, paths)]), _WIDEST)
        for path, row in zip(paths, rows, strict=True):
            line = [f"{path:<{self._path_width}}"]
            for rank in range(1, len(row) // 2 + 1):
                probability = percent(row[f"probability_{rank}"])
                line.append(f"{row[f'class_{rank}']:<{self._class_width}} {probability:>7}")
            self._console.note("  ".join(line))


def _top_of(model: Model, asked: int | None) -> int:
    classes = len(model.class_names)
    if asked is None:
        return min(_TOP, classes)
    if not 1 <= asked <= classes:
        raise UserError(f"--top={asked} must be from 1 to {classes}, the classes of the model")
    return asked
