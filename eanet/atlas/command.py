"""Shows what the memory of a trained run holds: RUN/atlas/index.html, figures and atlas.json.

Every unit of every block is measured over a split: how it is used, by which patches, classes and
positions, and what accuracy loses without it. docs/atlas.md has the definitions. Of a run with
self-attention there are its heads and attention rollout.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eanet import files
from eanet.atlas import measure, page, photos, pictures, record, without
from eanet.cli import Parser
from eanet.data.base import Split
from eanet.display.console import Console
from eanet.display.plot_style import saved
from eanet.display.progress import Share
from eanet.environment import environment
from eanet.errors import UserError
from eanet.inference.examples import load_examples
from eanet.inference.load import load
from eanet.inference.model import Model
from eanet.models.attention import ExternalAttention
from eanet.models.self_attention import SelfAttention
from eanet.workdir.model_record import SPLITS

_EXAMPLES = 2000  # on which units are switched off
_KINDS = ("png", "svg", "pdf")
_ELSEWHERE = "make room, or choose another --out"


def main(arguments: list[str], prog: str) -> None:
    """The command `atlas`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("run", metavar="RUN", help="directory of the run")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: %(default)s")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    parser.add_argument(
        "--images", action="append", default=[], metavar="FILE", help="to be shown; may be repeated"
    )
    parser.add_argument("--against", type=Path, metavar="RUN", help="a run with an atlas")
    parser.add_argument("--out", metavar="DIR", help="default: RUN/atlas")
    parser.add_argument(
        "--examples",
        type=int,
        default=_EXAMPLES,
        metavar="N",
        help="images on which every unit is switched off; default: %(default)s",
    )
    options = parser.parse_args(arguments)
    if options.examples < 1:
        raise UserError(f"--examples={options.examples}: at least one image is needed")
    run = files.local_path(options.run)
    out = files.local_path(options.out or run / "atlas")
    _check_place(out)
    console = Console()
    model = load(run, options.checkpoint, log=console.warn)
    has_units = _has_units(model)
    if options.against and not has_units:
        raise UserError("--against compares units of a memory, and this run has self-attention")
    against = record.read(files.local_path(options.against)) if options.against else None
    examples = load_examples(model, options.split, log=console.warn).split
    shown = photos.look_at(model, options.images, examples, units=has_units)
    atlas = _Atlas(model, run.resolve().name, options.split, examples, shown, console)
    content = atlas.of_units(options.examples, against) if has_units else atlas.of_tokens()
    files.write_directory(out, content, _ELSEWHERE)
    console.note(f"written to {out / 'index.html'}, with figures and {record.NAME}")


class _Atlas:
    """The files of an atlas by name, from a model and the split that it is looked at on."""

    def __init__(
        self,
        model: Model,
        name: str,
        split: str,
        examples: Split,
        shown: list[photos.Photo],
        console: Console,
    ):
        height, width, _ = model.image_shape
        patch = model.config.model.patch_size
        self._grid = height // patch, width // patch
        self._model, self._examples, self._console = model, examples, console
        self._name, self._photos = name, shown
        count = f"{len(examples):,} images of {split}"
        self._facts = [f"Checkpoint of step {model.step:,}; attention over {count}."]
        self._record = {
            "run": name,
            "split": split,
            "num_examples": len(examples),
            "step": model.step,
            "class_names": model.class_names,
            **environment(),
        }

    def of_units(self, most: int, against: dict[str, Any] | None) -> dict[str, bytes]:
        """Of external attention; units are switched off on so many images at most."""
        names = self._model.class_names
        with self._progress("attention", len(self._examples)) as share:
            blocks = measure.units(self._model, self._examples, share)
        chosen = without.spread(self._examples, most)
        count = len(blocks) * len(blocks[0]["share"])
        with self._progress(f"switching off {count} units", len(chosen)) as share:
            off = without.measure(self._model, chosen, share)
        for block, change in zip(blocks, off["change"], strict=True):
            block["change"] = change
        figures: dict[str, Any] = {"memory": pictures.memory(self._title("memory"), blocks)}
        for number, block in enumerate(blocks, 1):
            title = self._title(f"block {number}")
            figures[f"block_{number}"] = pictures.block(title, block, names)
            title = self._title(f"patches that units of block {number} answer most")
            figures[f"patches_{number}"] = pictures.patches(
                title, block, self._examples, self._grid
            )
        each = [block["positions"] for block in blocks]
        figures["positions"] = pictures.positions(
            self._title("attention by position"), each, self._grid
        )
        if against:
            other = against["run"] if against["run"] != self._name else f"{self._name} (other)"
            runs = {self._name: list(map(record.summary, blocks)), other: against["summary"]}
            figures["against"] = pictures.against("Two memories, block by block", runs)
        shown = page.Page(
            f"The memory of {self._name}",
            self._facts,
            self._examples,
            self._grid,
            names,
            self._photos,
            {},
            blocks,
            off,
            against,
            self._name,
        )
        return self._content("units", blocks, {"without": off}, figures, shown, "unit")

    def of_tokens(self) -> dict[str, bytes]:
        """Of self-attention."""
        with self._progress("attention", len(self._examples)) as share:
            blocks = measure.tokens(self._model, self._examples, share)
        rolled = [len(block["rollout"]) * block["rollout"][None] for block in blocks]
        figures = {
            "heads": pictures.self_attention(self._title("heads of self-attention"), blocks),
            "positions": pictures.positions(self._title("rollout"), rolled, self._grid),
        }
        shown = page.Page(
            f"The attention of {self._name}",
            self._facts,
            self._examples,
            self._grid,
            self._model.class_names,
            self._photos,
            {},
            [],
        )
        return self._content("rollout", blocks, {}, figures, shown, "block")

    @contextmanager
    def _progress(self, what: str, count: int) -> Iterator[Share]:
        share = Share(what, count, self._console.note, live=self._console.interactive)
        with self._console.live(share):
            yield share

    def _title(self, what: str) -> str:
        return f"{self._name}: {what}"

    def _content(
        self,
        kind: str,
        blocks: list[dict[str, Any]],
        more: dict[str, Any],
        figures: dict[str, Any],
        shown: page.Page,
        columns: str,
    ) -> dict[str, bytes]:
        for number, photo in enumerate(self._photos, 1):
            title = f"{photo.name}: predicted {photo.predicted[0][0]}"
            figures[f"image_{number}"] = pictures.photo(title, photo, self._grid, columns)
        content = {}
        with self._progress("figures", len(figures)) as share:
            for number, (name, figure) in enumerate(figures.items(), 1):
                for end in _KINDS:
                    content[f"figures/{name}.{end}"] = saved(figure, end)
                share(number)
        shown.pictures = {name: content[f"figures/{name}.png"] for name in figures}
        content["index.html"] = page.render(shown)
        content[record.NAME] = record.as_bytes({"kind": kind, **self._record, **more}, blocks)
        return content


def _has_units(model: Model) -> bool:
    attention = model.network.abstract.blocks.attention
    if isinstance(attention, ExternalAttention):
        return True
    if isinstance(attention, SelfAttention):
        return False
    raise UserError(
        f"the attention {model.config.model.attention!r} has no units and no rollout: an atlas is "
        'of "external" or "self"'
    )


def _check_place(out: Path) -> None:
    """Refuses, before anything long is begun, a place where the atlas cannot be put."""
    if out.exists() and not (out / record.NAME).is_file():
        raise UserError(f"{out} is there and is no atlas; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=out.parent).cleanup()
    except OSError as error:
        raise files.cannot_write(out, error, _ELSEWHERE) from error
