"""What a sweep shows: the runs before it starts, and a live table of them while it lasts."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict
from optuna.trial import TrialState as State
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderResult
from rich.text import Text

from eanet import host
from eanet.display.console import Console, Rows
from eanet.display.numbers import duration, epochs, human, percent
from eanet.sweeps.estimate import RunSize, estimates, together
from eanet.sweeps.queue import Status
from eanet.sweeps.records import RunRecord, glance

_NAMES = {
    State.WAITING: "waiting",
    State.RUNNING: "running",
    State.COMPLETE: "done",
    State.FAIL: "failed",
    State.PRUNED: "pruned",
}
_STYLES = {State.RUNNING: "cyan", State.FAIL: "red", State.COMPLETE: "green"}
# What is shown where not all has room.
_ORDER = (State.RUNNING, State.FAIL, State.COMPLETE, State.PRUNED, State.WAITING)


def show_plan(
    console: Console,
    directory: Path,
    sizes: Mapping[str, RunSize],
    configs: Mapping[str, ConfigDict],
    workers: int,
) -> None:
    """Lists the runs of a sweep with what they hold, compute and will take."""
    found = estimates(directory, sizes, configs, host.devices_of_share(workers))
    seconds = {name: found[name][0] if name in found else math.nan for name in sizes}
    rows = [
        (name, f"{size.parameters:,}", human(size.multiply_adds), duration(seconds[name]))
        for name, size in sizes.items()
    ]
    console.table(f"{len(sizes)} runs", ("run", "parameters", "MACs", "estimated time"), rows)
    console.note("")
    unknown = len(sizes) - len(found)
    if unknown:
        console.note(
            f"No time is known of {unknown} runs: none in or beside this sweep has finished on "
            "such a device, with a config that differs in numbers alone, and with as many MACs or "
            "up to four times more or fewer"
        )
    if found:
        paces = [pace for _, pace in found.values()]
        sources = list(dict.fromkeys(str(pace.source) for pace in paces))
        measured = "" if all(pace.rest >= 0 for pace in paces) else " without start and compilation"
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        console.note(
            f"About {duration(together((each for each, _ in found.values()), workers))} in all"
            f"{' for the others' if unknown else ''} with {workers} at once{measured}, as measured "
            f"in {sources[0]}{more}, training and evaluation in proportion to the MACs"
        )


class SweepDisplay:
    """A live table of runs on a terminal; elsewhere a line for each thing that happens."""

    def __init__(self, console: Console, directory: Path):
        self.note = console.note
        self.warn = console.warn
        self._directory = directory
        self.statuses: dict[str, Status] = {}
        self._runs: dict[str, RunRecord | None] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._rows: list[tuple[State, tuple[str, ...]]] = []

    def show(self, statuses: dict[str, Status], here: dict[str, float]) -> None:
        """Takes the status of every run, and seconds since those on this machine were taken."""
        for name, status in statuses.items():
            # What will not change is read once.
            if name in here or status != self.statuses.get(name):
                self._runs[name] = glance(self._directory / name)
            if name in here:
                run = self._runs[name]
                self._first.setdefault(name, (here[name], run.epoch if run else 0.0))
            else:
                self._first.pop(name, None)
        self.statuses = statuses
        # In one piece, as another thread draws it.
        self._rows = [
            (each.state, self._row(name, here.get(name))) for name, each in statuses.items()
        ]

    def summary(self) -> str:
        """How many runs are in which state."""
        counts = Counter(status.state for status in self.statuses.values())
        parts = [f"{counts[state]} {name}" for state, name in _NAMES.items() if counts[state]]
        return f"{len(self.statuses)} runs: {', '.join(parts)}"

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        rows = self._rows
        room = max(3, (options.height or console.height) - 5)
        order = sorted(range(len(rows)), key=lambda index: _ORDER.index(rows[index][0]))
        shown = sorted(order[:room])
        table = Rows("run", "state", "epoch", "validation", "time left")
        for state, cells in (rows[index] for index in shown):
            table.add_row(*cells, style=_STYLES.get(state))
        yield table
        left_out = len(rows) - len(shown)
        rest = f", {left_out} of them not shown" if left_out else ""
        yield Text(self.summary() + rest, style="bold")

    def _row(self, name: str, seconds: float | None) -> tuple[str, ...]:
        """The cells of a run that was taken so long ago on this machine, None elsewhere."""
        state, run = self.statuses[name].state, self._runs[name]
        if run is None:
            return name, _NAMES[state], "", "", ""
        time_left = ""
        if seconds is not None:
            # From the epochs since then; starting and compiling count as training.
            since, epoch = self._first[name]
            ahead, done = max(0.0, run.num_epochs - run.epoch), run.epoch - epoch
            time_left = duration((seconds - since) / done * ahead) if done > 0 else "?"
        return (
            name,
            "elsewhere" if state is State.RUNNING and seconds is None else _NAMES[state],
            f"{epochs(run.step, run.epoch)}/{run.num_epochs:g}" if run.step or time_left else "",
            percent(run.val_accuracy) if run.best else "",
            time_left,
        )
