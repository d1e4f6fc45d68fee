"""The progress of training, as a live bar or as one line an epoch."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import rich.console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from eanet.display.numbers import duration, epochs

Metrics = Mapping[str, float]

_SAY_SECONDS = 60.0
_FEW_SECONDS = 10.0


@dataclasses.dataclass
class Progress:
    """Where training stands; drawn live on a terminal, told once an epoch elsewhere."""

    total_steps: int  # of the whole training
    step: int  # where it stands; at first, where it starts
    steps_per_epoch: float  # may be fractional
    num_epochs: float  # of the whole training
    say: Callable[[str], None]  # takes the line of an epoch
    width: Callable[[], int | None]  # of the terminal; None elsewhere
    _train: Metrics = dataclasses.field(default_factory=dict)
    _val: Metrics = dataclasses.field(default_factory=dict)
    _timed_from: tuple[int, float] | None = None

    def update(self, step: int, **metrics: float) -> None:
        """Takes the steps taken, and loss, accuracy, images_per_second of late as numbers."""
        if self._timed_from is None:  # from here on, so that compilation is not counted
            self._timed_from = step, time.monotonic()
        self.step = step
        self._train = metrics

    def epoch_done(self, epoch: float, train: Metrics, val: Metrics | None = None) -> None:
        """Says how an epoch ended.

        In training with loss, accuracy, images_per_second; on validation with loss, accuracy,
        top5_accuracy, if it was validated.
        """
        self._val = val or self._val
        end = f"{self.num_epochs:g}"
        shown = epochs(round(epoch * self.steps_per_epoch), epoch)
        parts = [(0, f"epoch {shown:>{len(end)}}/{end}"), *_figures(train, val)]
        width = self.width()
        left = self._seconds_left() if width is None else None  # a terminal has it in the bar
        self.say(_fit([*parts, (0, _time_left(left))] if left else parts, width))

    def _seconds_left(self) -> float | None:
        if self._timed_from is None or self.step == self._timed_from[0]:
            return None
        since_step, since = self._timed_from
        # Over the whole run, not the last seconds: validation and saving take their share.
        seconds_per_step = (time.monotonic() - since) / (self.step - since_step)
        return (self.total_steps - self.step) * seconds_per_step

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> Iterator[Table | Text]:
        epoch = min(math.floor(self.step / self.steps_per_epoch) + 1, math.ceil(self.num_epochs))
        left = self._seconds_left()
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        bar.add_row(
            Text(f"epoch {epoch}/{self.num_epochs:g}", style="bold"),
            ProgressBar(total=self.total_steps, completed=self.step),
            Text(f"{self.step / max(self.total_steps, 1):.0%}  {_time_left(left)}"),
        )
        yield bar
        text = "compiling the first step"
        if self._train:
            text = _fit(_figures(self._train, self._val), options.max_width)
        yield Text(text, no_wrap=True, overflow="ellipsis", style="cyan")


class Count:
    """Images that are done, of a number that is not known before."""

    def __init__(self, say: Callable[[str], None], live: bool):
        """What takes a line once a minute, unless the count is drawn live."""
        self.images = 0
        self._say, self._live = say, live
        self._start = self._said = time.monotonic()

    def add(self, images: int) -> None:
        """Takes how many more are done."""
        self.images += images
        now = time.monotonic()
        if not self._live and now - self._said > _SAY_SECONDS:
            self._say(str(self))
            self._said = now

    def __str__(self) -> str:
        seconds = time.monotonic() - self._start
        counted = f"{self.images:,} image{'s' if self.images != 1 else ''}"
        return f"{counted} in {duration(seconds)}  {_rate(self.images / max(seconds, 1e-9))}"

    def __rich__(self) -> Text:
        return Text(str(self), style="cyan")


class Share:
    """How much is done of a known number of things."""

    def __init__(self, what: str, total: int, say: Callable[[str], None], live: bool):
        """What is done, and what takes a line once a minute, unless it is drawn live.

        The first line comes when it is known that there will be more than a few seconds of it.
        """
        self._what, self._total, self._say, self._live = what, total, say, live
        self._done = 0
        self._from: tuple[int, float] | None = None  # without compilation
        self._said = -math.inf

    def __call__(self, done: int) -> None:
        """Takes how many are done by now."""
        self._done, now = done, time.monotonic()
        self._from = self._from or (done, now)
        long = self._seconds_left() > _FEW_SECONDS
        if long and not self._live and now - self._said > _SAY_SECONDS:
            self._say(str(self))
            self._said = now

    def _seconds_left(self) -> float:
        if self._from is None or self._done == self._from[0]:
            return 0.0
        each = (time.monotonic() - self._from[1]) / (self._done - self._from[0])
        return each * (self._total - self._done)

    def __str__(self) -> str:
        line = f"{self._what}: {self._done:,} of {self._total:,}"
        seconds = self._seconds_left()
        return f"{line}  {_time_left(seconds)}" if seconds else line

    def __rich__(self) -> Text:
        return Text(str(self), style="cyan")


def _rate(images_per_second: float) -> str:
    rate = images_per_second
    return f"{rate:,.0f} images/s" if rate >= 99.5 else f"{rate:.1f} images/s"


def _figures(train: Metrics, val: Metrics | None) -> list[tuple[int, str]]:
    """Texts with their ranks, as far as the figures are there."""
    parts = [(0, f"train {_loss_and_accuracy(train)}")]
    if val:
        parts.append((0, f"val {_loss_and_accuracy(val)}"))
        if "top5_accuracy" in val:
            parts.append((2, f"top-5 {100 * val['top5_accuracy']:.1f}%"))
    if "images_per_second" in train:
        parts.append((1, _rate(train["images_per_second"])))
    return parts


def _loss_and_accuracy(metrics: Metrics) -> str:
    parts = []
    if "loss" in metrics:
        loss = metrics["loss"]
        parts.append(f"loss {loss:.3f}" if abs(loss) < 1e4 else f"loss {loss:.1e}")
    if "accuracy" in metrics:
        parts.append(f"acc {100 * metrics['accuracy']:.1f}%")
    return " ".join(parts)


def _time_left(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds)} left"


def _fit(parts: Sequence[tuple[int, str]], width: int | None) -> str:
    """Joins the texts; where they are wider than `width`, those of the highest rank go first."""
    shown = list(parts)
    while True:
        line = "  ".join(text for _, text in shown)
        rank = max(rank for rank, _ in shown)
        if width is None or len(line) <= width or rank == 0:
            return line
        shown = [part for part in shown if part[0] < rank]
