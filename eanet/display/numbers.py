"""Numbers as a person writes them, and what the numbers of an evaluation are called."""

import math
from collections.abc import Callable
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
# What is recorded of a split, in the order shown: what it is called, and how it is written.
RESULTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    name: (measure.label, _SHOWN[measure.kind]) for name, measure in MEASURES.items()
}
