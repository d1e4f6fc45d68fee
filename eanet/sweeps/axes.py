"""What the pictures of sweeps and of searches have alike."""

from collections.abc import Sequence
from typing import Any

from eanet.display.plot_style import FONT_SIZE, INK

ACCURACY = "Validation accuracy, %"
SINGLE_RUN: Any = {"alpha": 0.35, "markersize": 4, "markeredgewidth": 0}


def log_where_wide(axes: Any, values: Sequence[float], factor: float = 8) -> None:
    """Makes the horizontal axis logarithmic where the values span so large a factor."""
    from matplotlib.ticker import LogLocator, NullLocator

    if min(values) > 0 and (width := max(values) / min(values)) >= factor:
        axes.set_xscale("log")
        marks = [1.0] if width > 300 else [1.0, 3.0] if width > 30 else [1.0, 2.0, 5.0]
        axes.xaxis.set_major_locator(LogLocator(subs=marks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.locator_params(axis="x", nbins=6)


def note(figure: Any, text: str) -> None:
    """Writes a line below everything else."""
    height = 0.16 / figure.get_figheight()
    figure.text(0.01, 0.2 * height, text, size=FONT_SIZE - 1, color=INK, parse_math=False)
    figure.get_layout_engine().set(rect=(0, height, 1, 1 - height))
