"""The picture of all runs of a sweep over their epochs."""

import math
from collections.abc import Sequence
from typing import Any

from eanet.display.plot_style import FONT_SIZE, INK, PALETTE, new_figure, png, style
from eanet.sweeps.statistics import Setting, key_name, numeric_keys, shown_value

ACCURACY = "Validation accuracy, %"

_LINES: tuple[Any, ...] = ("-", "--", ":", "-.")
_MAX_LABELS = 8


def draw_curves(title: str, settings: Sequence[Setting]) -> bytes:
    """Validation accuracy of all runs; the colour is the first key, the kind of line the second."""
    keys = [*numeric_keys(settings), *(settings[0].values if settings else ())]
    keys = list(dict.fromkeys(keys))[:2]
    if len(keys) > 1 and len({setting.values[keys[1]] for setting in settings}) > len(_LINES):
        del keys[1]
    kinds = [list(dict.fromkeys(setting.values[key] for setting in settings)) for key in keys]
    kinds = [sorted(values) if key in numeric_keys(settings) else values
             for key, values in zip(keys, kinds, strict=True)]  # fmt: skip
    colours = _colours(len(kinds[0]) if kinds else 1)
    figure = new_figure(7.6, 4.4, title)
    axes = figure.subplots()
    style(axes, ACCURACY, "epoch")
    for setting in settings:
        first = kinds[0].index(setting.values[keys[0]]) if keys else 0
        second = kinds[1].index(setting.values[keys[1]]) if len(keys) > 1 else 0
        for run in setting.runs:
            val = [record for record in run.records if record["split"] == "val"]
            axes.plot(
                [record["epoch"] for record in val],
                [100 * record.get("accuracy", math.nan) for record in val],
                _LINES[second],
                color=colours[first],
                marker="o" if len(val) <= 3 else None,
                markersize=3.5, linewidth=1.2, alpha=0.85,
            )  # fmt: skip
    axes.set_xlim(left=0)
    _legend(axes, keys, kinds, colours)
    return png(figure)


def _legend(axes: Any, keys: Sequence[str], kinds: Sequence[Sequence[Any]], colours: Any) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for place, (key, values) in enumerate(zip(keys, kinds, strict=True)):
        if len(values) > _MAX_LABELS:
            shown = [0, len(values) // 2, len(values) - 1]
        else:
            shown = list(range(len(values)))
        handles.append(Line2D([], [], color="none", label=key_name(key)))
        for index in shown:
            colour = colours[index] if place == 0 else INK
            line: Any = "-" if place == 0 else _LINES[index]
            text = shown_value(values[index])
            handles.append(Line2D([], [], color=colour, linestyle=line, label=text))
    if handles:
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False,
                    fontsize=FONT_SIZE, labelcolor=INK)  # fmt: skip


def _colours(count: int) -> Any:
    """Distinct colours for a few values, a scale for many."""
    if count <= 4:
        return PALETTE[:count]
    from matplotlib import colormaps

    return [colormaps["viridis"](0.92 * index / (count - 1)) for index in range(count)]
