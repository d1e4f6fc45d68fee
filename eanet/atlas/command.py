"""Shows what the memory of a trained run holds: RUN/atlas/index.html, figures and atlas.json.

Every unit of every block is measured over a split: how it is used, by which patches, classes and
positions, and what accuracy loses without it. docs/atlas.md has the definitions. Of a run with
self-attention there are its heads and attention rollout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eanet import files
from eanet.atlas import measure, page, photos, pictures, record, without
from eanet.cli import Parser
from eanet.config import flatten
from eanet.data.base import Split
from eanet.display import titles
from eanet.display.console import Console
from eanet.display.plot_style import saved
from eanet.display.progress import Share
from eanet.environment import environment
from eanet.errors import UserError
from eanet.inference.examples import load_examples
from eanet.inference.load import load
from eanet.inference.model import Model
from eanet.inference.place import ABOUT, Place
from eanet.workdir.model_record import SPLITS

_EXAMPLES = 2000  # on which units are switched off
_KINDS = ("png", "svg", "pdf")
_ELSEWHERE = "make room, or choose another --out"


def main(arguments: list[str], prog: str) -> None:
    """The command `atlas`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("run", metavar="RUN", help=ABOUT)
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
        metavar="N",
        help=f"images on which every unit is switched off; default: {_EXAMPLES}",
    )
    options = parser.parse_args(arguments)
    if options.examples is not None and options.examples < 1:
        raise UserError(f"--examples={options.examples}: at least one image is needed")
    place = Place.of(options.run)
    out = place.out(options.out, "atlas")
    files.put_back(out)
    if out.exists() and not (out / record.NAME).is_file():
        raise UserError(f"{out} is there and is no atlas; choose another --out")
    console = Console()
    model = load(place.text, options.checkpoint, log=console.warn)
    files.check_place(out, _ELSEWHERE)
    viewer = photos.Viewer(model)
    if not viewer.units and (options.against or options.examples):
        flag = "--against" if options.against else "--examples"
        raise UserError(f"{flag} is about units of a memory, and this run has self-attention")
    against = record.read(files.local_path(options.against)) if options.against else None
    examples = load_examples(model, options.split, log=console.warn).split
    shown = viewer.files(options.images) if options.images else viewer.spread(examples)
    atlas = _Atlas(model, place.name, options.split, examples, viewer.grid, shown, console)
    most = options.examples or _EXAMPLES
    content = atlas.of_units(most, against) if viewer.units else atlas.of_tokens()
    files.write_directory(out, content, _ELSEWHERE)
    console.note(f"written to {out / 'index.html'}, with figures and {record.NAME}")


@dataclass(frozen=True)
class _Atlas:
    """The files of an atlas by name, from a model and the split that it is looked at on."""

    model: Model
    name: str  # of the run
    split: str
    examples: Split
    grid: tuple[int, int]  # rows and columns of patches
    shown: list[photos.Photo]
    console: Console

    @property
    def title(self) -> str:
        """What was trained on what."""
        return titles.of_run(dict(flatten(self.model.config)))

    def of_units(self, most: int, against: dict[str, Any] | None) -> dict[str, bytes]:
        """Of external attention; units are switched off on so many images at most."""
        with self._progress("attention", len(self.examples)) as share:
            blocks = measure.units(self.model, self.examples, share)
        chosen = without.spread(self.examples, most)
        count = len(blocks) * len(blocks[0]["share"])
        with self._progress(f"switching off {count} units", len(chosen)) as share:
            off = without.measure(self.model, chosen, share)
        for block, change in zip(blocks, off["change"], strict=True):
            block["change"] = change
        if against and against["run"] == self.name:
            against["run"] += " (other)"
        figures = pictures.of_units(
            self.title, blocks, self.examples, self.grid, self.model.class_names
        )
        if against:
            runs = {self.name: [*map(record.summary, blocks)], against["run"]: against["summary"]}
            figures["against"] = pictures.against("Two memories, block by block", runs)
        return self._files("units", blocks, figures, off, against)

    def of_tokens(self) -> dict[str, bytes]:
        """Of self-attention."""
        with self._progress("attention", len(self.examples)) as share:
            blocks = measure.tokens(self.model, self.examples, share)
        return self._files("rollout", blocks, pictures.of_tokens(self.title, blocks, self.grid))

    @contextmanager
    def _progress(self, what: str, count: int) -> Iterator[Share]:
        share = Share(what, count, self.console.note, live=self.console.interactive)
        with self.console.live(share):
            yield share

    def _files(
        self,
        kind: str,
        blocks: list[dict[str, Any]],
        figures: dict[str, Any],
        off: dict[str, Any] | None = None,
        against: dict[str, Any] | None = None,
    ) -> dict[str, bytes]:
        for number, photo in enumerate(self.shown, 1):
            figures[f"image_{number}"] = pictures.photo(photo, self.grid, kind)
        content = {}
        with self._progress("figures", len(figures)) as share:
            for number, (name, figure) in enumerate(figures.items(), 1):
                for end in _KINDS:
                    content[f"figures/{name}.{end}"] = saved(figure, end)
                share(number)
        options = self.model.config.model
        content["index.html"] = page.render(
            page.Page(
                name=self.name,
                intro=f"{options.depth} blocks, {options.num_heads} heads, checkpoint of step "
                f"{self.model.step:,}. Attention is measured over {len(self.examples):,} images "
                f"of {self.split}.",
                examples=self.examples,
                grid=self.grid,
                class_names=self.model.class_names,
                photos=self.shown,
                pictures={name: content[f"figures/{name}.png"] for name in figures},
                blocks=blocks if off else [],
                without=off or {},
                against=against,
            )
        )
        measured = {
            "run": self.name,
            "kind": kind,
            "split": self.split,
            "num_examples": len(self.examples),
            "step": self.model.step,
            "class_names": self.model.class_names,
            **environment(),
            "without": off,
        }
        content[record.NAME] = record.as_bytes(measured, blocks)
        return content
