"""What a sweep shows: the runs before it starts, and a live table of them while it lasts."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.text import Text

from eanet.display.console import Console, Rows
from eanet.display.numbers import duration, human, percent
from eanet.sweeps.estimate import Rate, RunSize
from eanet.sweeps.queue import Standing, State
from eanet.sweeps.records import RunRecord, read_run

Row = tuple[State, tuple[str, ...]]

_STYLES = {State.RUNNING: "cyan", State.FAILED: "red", State.DONE: "green"}
# What is shown where not all has room.
_ORDER = (State.RUNNING, State.FAILED, State.DONE, State.PRUNED, State.WAITING)


def show_plan(
    console: Console, sizes: Mapping[str, RunSize], rate: Rate | None, workers: int
) -> None:  # fmt: skip
    """Lists the runs of a sweep with what they cost."""
    table = Rows("run", "parameters", "multiply-adds", "estimated time")
    for name, size in sizes.items():
        seconds = duration(rate.seconds(size)) if rate else "?"
        table.add_row(name, f"{size.parameters:,}", human(size.multiply_adds), seconds)
    console.titled(f"{len(sizes)} runs", table)
    if rate:
        total = sum(rate.seconds(size) for size in sizes.values()) / workers
        console.note(
            f"\nAbout {duration(total)} in all with {workers} at once: training alone, at the "
            f"speed of {rate.source}, in proportion to the multiply-adds"
        )
    else:
        console.note("\nNo time can be estimated before a run in or beside this sweep has trained")


class SweepDisplay:
    """A live table of runs on a terminal; elsewhere a line for each thing that happens.

    Args:
      console: where to write.
      directory: of the sweep.
    """

    def __init__(self, console: Console, directory: Path):
        self.note = console.note
        self.warn = console.warn
        self._directory = directory
        self._standings: dict[str, Standing] = {}
        self._runs: dict[str, RunRecord] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._rows: list[Row] = []

    def show(self, standings: dict[str, Standing], here: dict[str, float]) -> None:
        """Takes how the runs stand; see `eanet.sweeps.workers.Display`."""
        for name, standing in standings.items():
            # What will not change is read once.
            if name in here or standing != self._standings.get(name):
                self._runs[name] = read_run(self._directory / name)
            if name in here:
                self._first.setdefault(name, (here[name], self._runs[name].epoch))
            else:
                self._first.pop(name, None)
        self._standings = standings
        # In one piece, as another thread draws it.
        self._rows = [(each.state, self._row(name, here)) for name, each in standings.items()]

    def summary(self) -> str:
        """How many runs stand how."""
        counts = Counter(standing.state for standing in self._standings.values())
        parts = [f"{counts[state]} {state.value}" for state in State if counts[state]]
        return f"{len(self._standings)} runs: {', '.join(parts)}"

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        rows = self._rows
        shown = _most_telling(rows, max(3, (options.height or console.height) - 5))
        table = Rows("run", "state", "epoch", "validation", "time left")
        for state, cells in shown:
            table.add_row(*cells, style=_STYLES.get(state))
        yield table
        left_out = len(rows) - len(shown)
        rest = f", {left_out} of them not shown" if left_out else ""
        yield Text(self.summary() + rest, style="bold")

    def _row(self, name: str, here: Mapping[str, float]) -> tuple[str, ...]:
        state, run = self._standings[name].state, self._runs[name]
        elsewhere = state is State.RUNNING and name not in here
        return (
            name,
            "elsewhere" if elsewhere else state.value,
            f"{run.epoch:.4g}/{run.num_epochs:g}" if run.records or name in here else "",
            percent(run.val_accuracy) if math.isfinite(run.val_accuracy) else "",
            self._time_left(here[name], run) if name in here else "",
        )

    def _time_left(self, now: float, run: RunRecord) -> str:
        """From the epochs since the run was taken; starting and compiling count as training."""
        since, epoch = self._first[run.name]
        done = run.epoch - epoch
        if done <= 0:
            return "?"
        return duration((now - since) / done * max(0.0, run.num_epochs - run.epoch))


def _most_telling(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows in their own order, those of runs at work before those that wait."""
    order = sorted(range(len(rows)), key=lambda index: _ORDER.index(rows[index][0]))
    return [rows[index] for index in sorted(order[:count])]
