"""Numbers as a person writes them, and what the numbers of an evaluation are called."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eanet.workdir.results import MEASURES


def human(number: float) -> str:
    """A number in units a person compares: 361380 is "361.4 k", 100700000 is "100.7 M"."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor * 0.99995:
            return f"{number / factor:.1f} {unit}"
    return f"{number:g}"


def percent(fraction: float) -> str:
    """A fraction as per cent: 0.4391 is "43.91%"; "–" where nothing was measured."""
    return f"{100 * fraction:.2f}%" if math.isfinite(fraction) else "–"


def duration(seconds: float) -> str:
    """A time as h:mm:ss, or with a tenth of a second below one minute."""
    if not math.isfinite(seconds):
        return "?"
    if 0 < seconds < 0.05:
        return "< 0.1 s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def epochs(step: int, epoch: float) -> str:
    """The epochs that are complete after a step, and were not yet before it, in fewest digits.

    Training for 40 epochs may take a part of a step more: 40.01 is "40". `epoch` is `step`, the
    optimizer steps taken, in epochs.
    """
    before = epoch - epoch / max(step, 1)
    for digits in range(6):
        rounded = math.floor(epoch * 10**digits + 1e-6) / 10**digits
        if rounded > before:
            return f"{rounded:g}"
    return f"{epoch:.4g}"


_SHOWN: dict[str, Callable[[Any], str]] = {
    "fraction": percent,
    "loss": "{:.4f}".format,
    "likelihood": "{:.4f}".format,
    "temperature": "{:.3f}".format,
    "count": "{:,}".format,
    "work": human,
    "seconds": duration,
}


@dataclass(frozen=True)
class Summary:
    """A mean."""

    mean: float  # of the values; NaN without any
    std: float  # their standard deviation, of a sample; NaN below two
    count: int  # of the values

    def percent(self, digits: int = 2, sign: str = "", gap: str = " ") -> str:
        """The mean and, of several values, ± their standard deviation; "–" without any."""
        if not self.count:
            return "–"
        mean = f"{100 * self.mean:{sign}.{digits}f}".replace("-", "−")
        return f"{mean}{gap}± {100 * self.std:.{digits}f}" if self.count > 1 else mean

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of the mean by Student's t; NaN below two values."""
        from scipy.stats import t

        if self.count < 2:
            return math.nan
        return float(t.ppf(0.975, self.count - 1)) * self.std / math.sqrt(self.count)


def summary(values: Sequence[float]) -> Summary:
    """The mean of some values."""
    finite = [value for value in values if math.isfinite(value)]
    return Summary(
        statistics.fmean(finite) if finite else math.nan,
        statistics.stdev(finite) if len(finite) > 1 else math.nan,
        len(finite),
    )


# What is recorded of a split, in the order shown: what it is called, and how it is written.
RESULTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    name: (measure.label, _SHOWN[measure.kind]) for name, measure in MEASURES.items()
}
