"""Everything a run says on the terminal: plain facts first, then progress, then what to do next.

Where standard output is a terminal there are colours and a live bar; elsewhere (a file,
`| tee`, a batch job) plain lines, one an epoch, each flushed at once. Whatever a terminal would
obey is written as an escape, wherever the text comes from.
"""

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.box
import rich.console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eanet.display.numbers import RESULTS, epochs, human
from eanet.display.progress import Progress
from eanet.errors import printable

_RUN_FILES = {
    "README.md": "model card",
    "curves.png": "loss and accuracy over epochs",
    "results_val.json": "results on the validation split",
    "results_test.json": "results on the test split",
    "predictions_test.csv": "the answer to every image of the test split",
    "classes_test.csv": "accuracy and precision of every class",
    "confusion_test.png": "which class is taken for which; confusion_test.csv has the numbers",
    "calibration_test.png": "accuracy against the predicted probability",
    "mistakes_test.png": "the surest mistakes",
    "metrics.jsonl": "all metrics, one JSON object a line",
    "checkpoints": "parameters and optimizer state, latest and best",
    "tensorboard": "the same metrics for TensorBoard",
    "config.json": "the configuration, every override in it",
    "run.json": "the version that began the run, and a digest of the configuration",
    "init.json": "where the weights came from that it started with",
    "model.json": "class names, image shape, mean and deviation",
    "machine.json": "what computed it last: devices, versions, settings",
}


class Console:
    """Where a run writes what its user reads, by default as standard output is a terminal."""

    def __init__(self, interactive: bool | None = None):
        if interactive is None:
            interactive = sys.stdout.isatty()
        if hasattr(sys.stdout, "reconfigure"):  # a terminal without × shall not end a training
            sys.stdout.reconfigure(errors="replace")
        self._rich = rich.console.Console(
            force_terminal=interactive,
            force_jupyter=False,
            force_interactive=interactive,
            no_color=None if interactive else True,
            width=None if interactive else 100,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self.interactive = interactive and not self._rich.is_dumb_terminal

    def note(self, text: str) -> None:
        """Says something, on a line of its own."""
        self._line((text, ""))

    def warn(self, text: str) -> None:
        """Says something that the user should not overlook."""
        self._line(("warning: ", "yellow bold"), (text, ""))

    def run_header(
        self, *, workdir: str | Path, device: str, step: int, total_steps: int,
        steps_per_epoch: float,
    ) -> None:  # fmt: skip
        """Says on what the run computes, where it goes, and where it stands."""
        end = epochs(total_steps, total_steps / steps_per_epoch)
        if step >= total_steps:
            state = f"already complete: {total_steps:,} steps, {end} epochs"
        elif step > 0:
            epoch = epochs(step, step / steps_per_epoch)
            state = f"resumes at step {step:,} of {total_steps:,} (epoch {epoch} of {end})"
        else:
            state = f"starts: {total_steps:,} steps, {end} epochs"
        self._fields({"device": device, "workdir": str(workdir), "training": state})

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Shows rows of text under a title; the first column is text, the others are figures."""
        table = Rows(*columns)
        for row in rows:
            table.add_row(*row)
        self.titled(title, table)

    def titled(self, title: str, table: "Rows") -> None:
        """Shows a table under a title."""
        self._line()
        self._line((title, "bold"))
        self._rich.print(table)

    def dataset_table(
        self, name: str, examples: Mapping[str, int], *, image_shape: Sequence[int],
        num_classes: int,
    ) -> None:  # fmt: skip
        """Shows a data set: examples by split, the shape of an image, the number of classes."""
        title = f"Data: {name}, {num_classes:,} classes, images {_product(image_shape)}"
        rows = [(split, f"{count:,}") for split, count in examples.items()]
        self.table(title, ("split", "examples"), rows)

    def model_table(
        self, rows: Iterable[tuple[str, Sequence[int], int, int]], total: tuple[int, int]
    ) -> None:
        """Shows a model by parts: names, shapes of an image's output, parameters, its MACs."""
        table = Rows("part", "output shape", "parameters", "MACs")
        for part, shape, parameters, macs in rows:
            table.add_row(part, _product(shape), f"{parameters:,}", human(macs))
        table.add_section()
        table.add_row("total", "", f"{total[0]:,}", human(total[1]), style="bold")
        self.titled("Model", table)

    def layers_table(self, layers: Mapping[str, Mapping[str, float]]) -> None:
        """Shows what `eanet.training.diagnostics` finds in a step."""
        columns = ("activation_rms", "activation_max", "gradient_norm")
        rows = [
            (name, *(f"{values[c]:.4g}" if c in values else "" for c in columns))
            for name, values in layers.items()
        ]
        self.table("The step by layer", ("after", *(c.replace("_", " ") for c in columns)), rows)

    def results_table(self, results: Mapping[str, Any]) -> None:
        """Shows what `eanet.workdir.results.write_results` records of one split."""
        table = Rows("", "")
        for name, (label, shown) in RESULTS.items():
            if results.get(name) is not None:
                style = "bold" if name == "accuracy" else None
                table.add_row(label, shown(results[name]), style=style)
        self.titled(f"Results on the {results['split']} split", table)

    def next_steps(self, workdir: str | Path) -> None:
        """Lists the files that stand in the workdir, and the commands one may want next."""
        workdir = Path(workdir)
        self._line()
        self._line((f"In {workdir}", "bold"))
        there = {name: what for name, what in _RUN_FILES.items() if (workdir / name).exists()}
        self._fields(there, indent="  ")
        self._line()
        self._line(("Next", "bold"))
        self.note(f"  python main.py --mode=eval --workdir={shlex.quote(str(workdir))}")
        if shutil.which("tensorboard") is None:
            self.note("  pip install -r requirements-tensorboard.txt")
        # Absolute, as TensorBoard may be started elsewhere, and shows nothing where nothing is.
        events = (workdir / "tensorboard").absolute()
        self.note(f"  tensorboard --logdir={shlex.quote(str(events))}")

    @contextmanager
    def progress(
        self, total_steps: int, start_step: int, steps_per_epoch: float, num_epochs: float
    ) -> Iterator[Progress]:
        """Shows training from `start_step` to `total_steps` while the context lasts."""
        steps = total_steps, start_step, steps_per_epoch
        progress = Progress(*steps, num_epochs, say=self.note, width=self._width)
        self._line()
        with self.live(progress):
            yield progress

    @contextmanager
    def live(self, what: rich.console.RenderableType) -> Iterator[None]:
        """Draws something again and again while the context lasts, on a terminal only."""
        if not self.interactive:
            yield
            return
        with Live(what, console=self._rich, refresh_per_second=2, transient=True):
            self._rich.show_cursor(True)  # so that a kill does not leave the terminal without
            yield

    def _width(self) -> int | None:
        return self._rich.width if self.interactive else None

    def _line(self, *parts: tuple[str, str]) -> None:
        """Writes texts with their styles, unwrapped: a path or a command is one piece to copy."""
        text = Text.assemble(*((printable(part), style) for part, style in parts))
        self._rich.print(text, soft_wrap=True)

    def _fields(self, fields: Mapping[str, str], indent: str = "") -> None:
        width = max(map(len, fields), default=0)
        for name, value in fields.items():
            self._line((f"{indent}{name:<{width}}  ", "dim"), (value, ""))


class Rows(Table):
    """A table whose first column is text and whose others are figures."""

    def __init__(self, *columns: str):
        super().__init__(
            box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(columns)
        )
        for index, column in enumerate(columns):
            self.add_column(
                printable(column), justify="right" if index else "left", no_wrap=index > 0
            )

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Adds a row of texts; `style` as of `rich`."""
        super().add_row(*map(printable, cells), **options)


def _product(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
