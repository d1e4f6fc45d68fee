"""The pictures of a search: what was tried in which order, and which of its keys mattered."""

import math
from collections.abc import Sequence
from typing import Any

from eanet.display.plot_style import FAINT, FONT_SIZE, INK, PALETTE, new_figure, style
from eanet.sweeps.axes import ACCURACY, log_where_wide, note
from eanet.sweeps.importance import importances, is_of
from eanet.sweeps.keys import headings, shown_value
from eanet.sweeps.records import RunRecord, SweepRecord
from eanet.sweeps.spec import Between, OneOf

_BEST: Any = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.6}
# The states that have an accuracy: the label, and the look of a point.
_STATES: dict[str, tuple[str, Any]] = {
    "done": ("finished", {"markerfacecolor": PALETTE[0]}),
    "pruned": ("stopped early", {"markerfacecolor": "white"}),
}


def draw_all(title: str, sweep: SweepRecord) -> dict[str, Any]:
    """All figures that the trials of a search are enough for, by name."""
    space = sweep.space or {}
    trials = [
        (number, run)
        for number, run in enumerate(sweep.runs)
        if run.state in _STATES and is_of(space, run)
    ]
    if not any(run.state == "done" for _, run in trials):
        return {}
    figures = {"searched": _searched(title, sweep, trials), "trials": _trials(title, trials)}
    shares = importances(sweep)
    if shares:
        figures["importance"] = _importance(title, shares, [run for _, run in trials])
    return figures


def _searched(title: str, sweep: SweepRecord, trials: Sequence[tuple[int, RunRecord]]) -> Any:
    """A panel for each key: accuracy against its values."""
    space = sweep.space or {}
    words, columns = headings(space), 2 if len(space) == 4 else min(3, len(space))
    rows = math.ceil(len(space) / columns)
    figure = new_figure(max(5.5, 3.6 * columns), 0.9 + 3.0 * rows, title)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in panels[len(space) :]:
        axes.set_axis_off()
    for axes, (key, values) in zip(panels, space.items(), strict=False):
        style(axes, ACCURACY, words[key])
        if isinstance(values, OneOf):
            places = {value: place for place, value in enumerate(values.values)}
            axes.set_xticks(range(len(places)), map(shown_value, places), parse_math=False)
            axes.set_xlim(-0.5, len(places) - 0.5)
        else:
            _scale(axes, values)
            places = {}
        points = [(places.get(run.settings[key], run.settings[key]), run) for _, run in trials]
        _draw(axes, points)
    _state_legend(figure, trials)
    return figure


def _scale(axes: Any, values: Between) -> None:
    if isinstance(values.low, int):
        axes.locator_params(axis="x", integer=True)
    if values.log:
        axes.set_xscale("log")
        log_where_wide(axes, (values.low, values.high), factor=1)
        axes.set_xlim(values.low / 1.1, values.high * 1.1)
    else:
        margin = 0.04 * (values.high - values.low)
        axes.set_xlim(values.low - margin, values.high + margin)


def _trials(title: str, trials: Sequence[tuple[int, RunRecord]]) -> Any:
    """Accuracy by the number of the trial, and the best that was finished so far."""
    figure = new_figure(7.2, 4.0, title)
    axes = figure.subplots()
    style(axes, ACCURACY, "trial")
    done = [(number, 100 * run.val_accuracy) for number, run in trials if run.state == "done"]
    so_far = [max(height for _, height in done[: count + 1]) for count in range(len(done))]
    last = max(number for number, _ in trials)
    xs = [number for number, _ in done] + [last]
    axes.step(xs, [*so_far, so_far[-1]], where="post", color=FAINT, linewidth=1.2)
    _draw(axes, trials)
    axes.locator_params(axis="x", integer=True)
    axes.annotate(
        f"best so far {so_far[-1]:.2f}",
        (1, so_far[-1]),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        size=FONT_SIZE,
        color=INK,
    )
    _state_legend(figure, trials)
    return figure


def _importance(title: str, shares: dict[str, float], runs: Sequence[RunRecord]) -> Any:
    words = headings(shares)
    order = sorted(shares, key=lambda key: shares[key], reverse=True)
    figure = new_figure(6.6, 1.5 + 0.34 * len(order), title)
    axes = figure.subplots()
    style(axes, "Share in the variance of the validation accuracy", "")
    axes.grid(visible=False)
    axes.tick_params(bottom=False, labelbottom=False)
    axes.spines["bottom"].set_visible(False)
    axes.barh([words[key] for key in order], [shares[key] for key in order], color=PALETTE[0])
    for row, key in enumerate(order):
        axes.text(shares[key], row, f"  {shares[key]:.2f}", va="center", size=FONT_SIZE, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(shares.values()))
    count = sum(run.state == "done" for run in runs)
    note(figure, f"fANOVA over {count} finished trials; of few it says little")
    return figure


def _draw(axes: Any, points: Sequence[tuple[Any, RunRecord]]) -> None:
    """A point for each trial at its place, and a ring around the best that is finished."""
    look: Any = {"markersize": 5.5, "markeredgewidth": 1.0, "color": PALETTE[0], "zorder": 2}
    for state, (_, kind) in _STATES.items():
        chosen = [(place, 100 * run.val_accuracy) for place, run in points if run.state == state]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), "o", **look, **kind)
    done = [(place, 100 * run.val_accuracy) for place, run in points if run.state == "done"]
    if done:
        place, height = max(done, key=lambda point: point[1])
        axes.plot([place], [height], "o", color=PALETTE[1], zorder=3, **_BEST)


def _state_legend(figure: Any, trials: Sequence[tuple[int, RunRecord]]) -> None:
    """Says what hollow points are, where there are any."""
    from matplotlib.lines import Line2D

    if all(run.state == "done" for _, run in trials):
        return
    handles = [
        Line2D([], [], linestyle="none", marker="o", color=PALETTE[0], label=text, **kind)
        for text, kind in _STATES.values()
    ]
    look: Any = {"frameon": False, "fontsize": FONT_SIZE, "labelcolor": INK, "ncols": 2}
    figure.legend(handles=handles, loc="outside lower left", **look)
