"""The pictures of a sweep: accuracy by setting, and what it costs."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eanet.display.plot_style import (
    FAINT,
    FONT_SIZE,
    INK,
    PALETTE,
    beside,
    label,
    new_figure,
    spread,
    style,
)
from eanet.sweeps import search_pictures
from eanet.sweeps.axes import ACCURACY, SINGLE_RUN, log_where_wide, note
from eanet.sweeps.keys import headings, shown_value, shown_values, symbols
from eanet.sweeps.records import SweepRecord
from eanet.sweeps.statistics import Setting, baseline, numeric_keys, pareto_front

_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")
# Its axis: an attribute of a run, and what that is multiplied by.
_COSTS = {
    "MACs for one image, millions": ("multiply_adds", 1e-6),
    "parameters, thousands": ("parameters", 1e-3),
    "latency of one image, ms": ("latency", 1.0),
}
_BESIDE = 6  # points between the bars of two lines
_MAX_LABELS = 8
_MAX_LINES = len(PALETTE)
_MAX_ROWS = 40
_LONGEST = 70  # letters beside a row
_SETTING = "setting"  # stands for a key where settings are told by what they change


def draw_all(title: str, settings: Sequence[Setting], sweep: SweepRecord) -> dict[str, Any]:
    """All figures that these settings of a sweep are enough for, by name."""
    done = [setting for setting in settings if setting.validation.count]
    figures: dict[str, Any] = {}
    if sweep.space:
        figures |= search_pictures.draw_all(title, sweep)
    elif done:
        figures["accuracy"] = _accuracy(title, done)
    if done and (pareto := _pareto(title, done, sweep)):
        figures["pareto"] = pareto
    keys = numeric_keys(done)
    if not sweep.space and _is_grid(done, keys):
        figures["heat_map"] = _heat_map(title, done, *keys)
    if any(run.best for setting in settings for run in setting.runs):
        figures["curves"] = _curves(title, settings)
    return figures


def _accuracy(title: str, settings: Sequence[Setting]) -> Any:
    """Lines over the first numeric key where there are lines, else a row for each setting."""
    if settings[0].changed is not None:
        return _rows(title, settings)
    keys = numeric_keys(settings)
    for key in keys:
        lines = _by_others(settings, key)
        if len(lines) <= _MAX_LINES and max(map(len, lines.values())) > 1:
            return _lines(title, key, lines)
    if keys and len(settings) > _MAX_ROWS / 2:
        return _scatter(title, keys[:3], settings)
    return _rows(title, settings)


def _lines(title: str, key: str, lines: Mapping[str, Sequence[Setting]]) -> Any:
    figure = new_figure(6.6, 4.2, title)
    axes = figure.subplots()
    settings = [setting for line in lines.values() for setting in line]
    style(axes, ACCURACY, headings(settings[0].values)[key])
    ticks = sorted({setting.values[key] for setting in settings})
    texts = []
    for index, (text, line) in enumerate(lines.items()):
        line = sorted(line, key=lambda setting: setting.values[key])
        values = [setting.values[key] for setting in line]
        colour = PALETTE[index]
        single = [
            point
            for value, setting in zip(values, line, strict=True)
            for run in setting.done
            for point in axes.plot(value, 100 * run.val_accuracy, "o", color=colour, **SINGLE_RUN)
        ]
        means, errors = _means(line)
        look = {"markersize": 5, "linewidth": 1.6, "elinewidth": 1}
        bars = axes.errorbar(values, means, errors, color=colour, marker="o", capsize=3, **look)
        # Side by side, else the bars of one line would cover those of another.
        beside(axes, [*single, *bars.get_children()], _BESIDE * (index - (len(lines) - 1) / 2))
        texts += label(axes, means[-1], text, colour) if text else []
    log_where_wide(axes, ticks, factor=4)
    if len(ticks) <= 10:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.draw_without_rendering()
    spread(axes, texts)
    _footnote(figure, settings)
    return figure


def _rows(title: str, settings: Sequence[Setting]) -> Any:
    names = [textwrap.fill(setting.name, _LONGEST) for setting in settings]
    lines = 1 + max(name.count("\n") for name in names)
    figure = new_figure(7.2, 1.4 + (0.12 + 0.16 * lines) * len(settings), title)
    axes = figure.subplots()
    style(axes, "", ACCURACY)
    if around := baseline(settings):
        axes.axvline(100 * around.validation.mean, color=FAINT, linestyle="--", linewidth=1)
    axes.grid(axis="x", color="#e8e8e8", linewidth=0.8)
    rows = range(len(settings))
    for row, setting in zip(rows, settings, strict=True):
        for run in setting.done:
            axes.plot(100 * run.val_accuracy, row, "o", color=PALETTE[0], **SINGLE_RUN)
    means, errors = _means(settings)
    axes.errorbar(means, rows, xerr=errors, color=PALETTE[0], fmt="o", markersize=6, capsize=3)
    axes.set_yticks(rows, names)
    axes.set_ylim(len(settings) - 0.5, -0.5)
    _footnote(figure, settings)
    return figure


def _scatter(title: str, keys: Sequence[str], settings: Sequence[Setting]) -> Any:
    figure = new_figure(4.2 * len(keys), 4.0, title)
    words = headings(settings[0].values)
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        style(axes, ACCURACY, words[key])
        values = [setting.values[key] for setting in settings]
        means, _ = _means(settings)
        axes.plot(values, means, "o", color=PALETTE[0], alpha=0.7, markeredgewidth=0)
        log_where_wide(axes, values)
    return figure


def _heat_map(title: str, settings: Sequence[Setting], across: str, up: str) -> Any:
    columns = sorted({setting.values[across] for setting in settings})
    rows = sorted({setting.values[up] for setting in settings})
    means = np.full((len(rows), len(columns)), math.nan)
    texts = dict.fromkeys(np.ndindex(means.shape), "–")
    for setting in settings:
        cell = rows.index(setting.values[up]), columns.index(setting.values[across])
        means[cell] = 100 * setting.validation.mean
        texts[cell] = setting.validation.percent(1, gap="\n")
    figure = new_figure(2.4 + 0.9 * len(columns), 1.8 + 0.62 * len(rows), title)
    axes = figure.subplots()
    image = axes.imshow(means, origin="lower", aspect="auto", cmap="viridis")
    words = headings(settings[0].values)
    style(axes, ACCURACY, words[across])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False)
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.set_ylabel(words[up], size=FONT_SIZE, color=INK)
    for (row, column), text in texts.items():
        dark = image.norm(means[row, column]) <= 0.6
        look = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
        axes.text(column, row, text, size=FONT_SIZE, **look)
    _footnote(figure, settings)
    return figure


def _pareto(title: str, settings: Sequence[Setting], sweep: SweepRecord) -> Any:
    """Accuracy over each cost that is known; None where none is."""
    numbers = {run.name: number for number, run in enumerate(sweep.runs)}
    panels = {}
    for name, (cost, unit) in _COSTS.items():
        known = [(setting, getattr(setting.done[0], cost)) for setting in settings]
        points = [(setting, value * unit) for setting, value in known if value is not None]
        if points:
            panels[name] = points
    if not panels:
        return None
    figure = new_figure(max(6.0, 4.2 * len(panels)), 4.2, title)
    named = (
        "number of the trial" if sweep.space else ", ".join(symbols(settings[0].values).values())
    )
    if settings[0].changed is not None:
        named = "what was changed"
    note(figure, f"beside the points: {named}" if named else "")

    def name_of(setting: Setting) -> str:
        if sweep.space:
            return str(numbers[setting.runs[0].name])
        if setting.changed is not None:
            return setting.name
        return ", ".join(map(shown_value, setting.values.values()))

    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, points) in zip(all_axes, panels.items(), strict=True):
        style(axes, ACCURACY, name)
        _draw_front(axes, points, name_of)
    return figure


def _draw_front(
    axes: Any, points: Sequence[tuple[Setting, float]], name_of: Callable[[Setting], str]
) -> None:
    xs = [cost for _, cost in points]
    ys, _ = _means([setting for setting, _ in points])
    front = pareto_front(list(zip(xs, ys, strict=True)))
    axes.plot(xs, ys, "o", color=FAINT, markersize=5, markeredgewidth=0)
    best = [(xs[index], ys[index]) for index in front]
    axes.plot(*zip(*best, strict=True), "o-", color=PALETTE[1], linewidth=1.4, markersize=6)
    log_where_wide(axes, xs)
    axes.margins(x=0.25, y=0.15)
    # Nothing lies above and left of the front, nor of it below and right.
    look = {"xytext": (-6, 4), "textcoords": "offset points", "ha": "right", "color": INK}
    names = [name_of(points[index][0]) for index in front]
    texts = [
        axes.annotate(name, point, size=FONT_SIZE - 1, **look)
        for name, point in zip(names, best, strict=True)
    ]
    axes.figure.draw_without_rendering()
    taken: list[Any] = []
    for text in reversed(texts):  # the best first; what would cover another is left to the table
        if text.get_window_extent().x0 < axes.bbox.x0:  # over the numbers of the axis
            text.set(position=(6, -4), horizontalalignment="left", verticalalignment="top")
        box = text.get_window_extent()
        if box.x1 > axes.bbox.x1 or any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)


def _curves(title: str, settings: Sequence[Setting]) -> Any:
    """Validation accuracy of all runs; the colour is the first key, the kind of line the second."""
    from matplotlib import colormaps

    kinds = _kinds(settings)
    count = len(next(iter(kinds.values()), [None]))
    colours: Any = PALETTE
    if count > 4:  # a scale
        colours = [colormaps["viridis"](0.92 * index / (count - 1)) for index in range(count)]
    figure = new_figure(7.6, 4.4, title)
    axes = figure.subplots()
    style(axes, ACCURACY, "epoch")
    for setting in settings:
        indices = [values.index(_value(setting, key)) for key, values in kinds.items()]
        colour, line = (*indices, 0, 0)[:2]
        for run in setting.runs:
            epochs = [record["epoch"] for record in run.validations]
            accuracies = [100 * record["accuracy"] for record in run.validations]
            look = {"linestyle": _STYLES[line], "marker": "o" if len(epochs) <= 3 else None}
            look |= {"color": colours[colour], "markersize": 3.5, "linewidth": 1.2, "alpha": 0.85}
            axes.plot(epochs, accuracies, **look)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=axes.get_xlim()[1] >= 3)
    _legend(axes, kinds, colours, {_SETTING: _SETTING, **headings(settings[0].values)})
    return figure


def _kinds(settings: Sequence[Setting]) -> dict[str, list[Any]]:
    """The values that the colour stands for, and then the kind of line, by their keys."""
    if baseline(settings):
        return {_SETTING: [setting.name for setting in settings]}
    numeric = numeric_keys(settings)
    kinds: dict[str, list[Any]] = {}
    for key in list(dict.fromkeys([*numeric, *settings[0].values]))[:2]:
        values = list(dict.fromkeys(setting.values[key] for setting in settings))
        if not kinds or len(values) <= len(_STYLES):
            kinds[key] = sorted(values) if key in numeric else values
    return kinds


def _value(setting: Setting, key: str) -> Any:
    return setting.name if key == _SETTING else setting.values[key]


def _legend(
    axes: Any, kinds: Mapping[str, Sequence[Any]], colours: Any, words: Mapping[str, str]
) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for place, (key, values) in enumerate(kinds.items()):
        few = len(values) <= _MAX_LABELS or key == _SETTING
        handles.append(Line2D([], [], color="none", label=words[key]))
        for index in range(len(values)) if few else (0, len(values) // 2, len(values) - 1):
            colour, line = (colours[index], 0) if place == 0 else (INK, index)
            text = shown_value(values[index])
            handles.append(Line2D([], [], color=colour, linestyle=_STYLES[line], label=text))
    if handles:
        look: Any = {"frameon": False, "fontsize": FONT_SIZE, "labelcolor": INK}
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), **look)


def _is_grid(settings: Sequence[Setting], keys: Sequence[str]) -> bool:
    """Whether the sweep varies two numbers and nothing else, and half of their pairs are there."""
    if len(keys) != 2 or len(settings[0].values) != 2:
        return False
    sizes = [len({setting.values[key] for setting in settings}) for key in keys]
    return 2 * len(settings) >= math.prod(sizes)


def _by_others(settings: Sequence[Setting], key: str) -> dict[str, list[Setting]]:
    """The settings that differ in one key alone, by the values of the others."""
    others = [other for other in settings[0].values if other != key]
    lines: dict[str, list[Setting]] = {}
    for setting in settings:
        text = shown_values({other: setting.values[other] for other in others})
        lines.setdefault(text, []).append(setting)
    return lines


def _footnote(figure: Any, settings: Sequence[Setting]) -> None:
    """Says how many runs a mean is of, which no picture of means should leave out."""
    counts = sorted({setting.validation.count for setting in settings})
    runs = " to ".join(str(count) for count in dict.fromkeys([counts[0], counts[-1]]))
    note(figure, f"n = {runs} per setting{'; mean ± standard deviation' if counts[-1] > 1 else ''}")


def _means(settings: Sequence[Setting]) -> tuple[list[float], list[float]]:
    """In per cent, with their standard deviations, 0 where unknown."""
    summaries = [setting.validation for setting in settings]
    deviations = [100 * each.std if each.count > 1 else 0.0 for each in summaries]
    return [100 * each.mean for each in summaries], deviations
