"""Everything a run says on the terminal: plain facts first, then progress, then what to do next.

Where standard output is a terminal there are colours and a live bar; elsewhere (a file,
`| tee`, a batch job) plain lines, one an epoch, each flushed at once.
"""

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.box
import rich.console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eanet.display.progress import Progress, duration, human, percent

_RUN_FILES = {
    "README.md": "model card",
    "curves.png": "loss and accuracy over epochs",
    "results_val.json": "results on the validation split",
    "results_test.json": "results on the test split",
    "metrics.jsonl": "all metrics, one JSON object a line",
    "checkpoints": "parameters and optimizer state, latest and best",
    "tensorboard": "the same metrics for TensorBoard",
    "config.json": "the configuration, every override in it",
}


def _thousands(number: int) -> str:
    return f"{number:,}"


# What is recorded of a split, in the order shown: label, and how a value is written.
_RESULTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "accuracy": ("accuracy", percent),
    "top5_accuracy": ("top-5 accuracy", percent),
    "loss": ("loss", "{:.4f}".format),
    "num_examples": ("examples", _thousands),
    "step": ("checkpoint of step", _thousands),
    "parameters": ("parameters", _thousands),
    "multiply_adds_per_image": ("multiply-adds per image", human),
    "wall_time_seconds": ("wall time", duration),
}


class Console:
    """Where a run writes what its user reads.

    Args:
      interactive: Whether a person watches a terminal; None finds out from standard output.
    """

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
        self._line(Text(text))

    def warn(self, text: str) -> None:
        """Says something that the user should not overlook."""
        self._line(Text.assemble(("warning: ", "yellow bold"), text))

    def run_header(
        self,
        *,
        workdir: str | Path,
        device: str,
        step: int,
        total_steps: int,
        steps_per_epoch: float,
    ) -> None:
        """Says on what the run computes, where it goes, and where it stands."""
        epochs = f"{total_steps / steps_per_epoch:.4g}"
        if step >= total_steps:
            state = f"already complete: {total_steps:,} steps, {epochs} epochs"
        elif step > 0:
            epoch = step / steps_per_epoch
            state = f"resumes at step {step:,} of {total_steps:,} (epoch {epoch:.4g} of {epochs})"
        else:
            state = f"starts: {total_steps:,} steps, {epochs} epochs"
        self._fields({"device": device, "workdir": str(workdir), "training": state})

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Shows rows of text under a title; the first column is text, the others are figures."""
        table = new_table(*columns)
        for row in rows:
            table.add_row(*row)
        self.titled(title, table)

    def dataset_table(
        self,
        name: str,
        examples: Mapping[str, int],
        *,
        image_shape: Sequence[int],
        num_classes: int,
    ) -> None:
        """Shows a data set: examples by split, the shape of an image, the number of classes."""
        shape = " × ".join(map(str, image_shape))
        title = f"Data: {name}, {num_classes:,} classes, images {shape}"
        rows = [(split, f"{count:,}") for split, count in examples.items()]
        self.table(title, ("split", "examples"), rows)

    def model_table(
        self,
        rows: Iterable[tuple[str, Sequence[int], int, int]],
        total: tuple[int, int],
    ) -> None:
        """Shows a model by parts.

        Args:
          rows: For each part its name, the shape of its output for one image, its number of
            parameters, and its multiply-adds for one image.
          total: Parameters and multiply-adds of the whole.
        """
        table = new_table("part", "output shape", "parameters", "multiply-adds")
        for part, shape, parameters, multiply_adds in rows:
            sizes = " × ".join(map(str, shape))
            table.add_row(part, sizes, f"{parameters:,}", human(multiply_adds))
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
        table = new_table("", "")
        for name, (label, shown) in _RESULTS.items():
            if results.get(name) is not None:
                style = "bold" if name == "accuracy" else None
                table.add_row(label, shown(results[name]), style=style)
        self.titled(f"Results on the {results['split']} split", table)

    def next_steps(self, workdir: str | Path) -> None:
        """Lists the files that stand in the workdir, and the commands one may want next."""
        workdir = Path(workdir)
        self._line(Text(f"\nIn {workdir}", style="bold"))
        there = {name: what for name, what in _RUN_FILES.items() if (workdir / name).exists()}
        self._fields(there, indent="  ")
        place = shlex.quote(str(workdir))
        self._line(Text("\nNext", style="bold"))
        self._line(Text(f"  python main.py --mode=eval --workdir={place}"))
        self._line(Text(f"  tensorboard --logdir={shlex.quote(str(workdir / 'tensorboard'))}"))

    @contextmanager
    def progress(
        self, total_steps: int, start_step: int, steps_per_epoch: float, num_epochs: float
    ) -> Iterator["Progress"]:
        """Shows training from `start_step` to `total_steps` while the context lasts."""
        progress = Progress(
            total_steps,
            start_step,
            steps_per_epoch,
            num_epochs,
            say=self.note,
            width=lambda: self._rich.width if self.interactive else None,
        )
        self._line(Text())
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

    def _line(self, text: Text) -> None:
        # Unwrapped: a path or a command stays one piece to copy.
        self._rich.print(text, soft_wrap=True)

    def titled(self, title: str, table: Table) -> None:
        """Shows a table under a title."""
        self._line(Text(f"\n{title}", style="bold"))
        self._rich.print(table)

    def _fields(self, fields: Mapping[str, str], indent: str = "") -> None:
        width = max(map(len, fields), default=0)
        for name, value in fields.items():
            self._line(Text.assemble((f"{indent}{name:<{width}}  ", "dim"), value))


def new_table(*columns: str) -> Table:
    """A table whose first column is text and whose others are figures."""
    table = Table(
        box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(columns)
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table
