"""The pictures of measurements, drawn from what is recorded of them; and drawn anew from there.

python -m benchmarks.pictures FILE.json ... [--figures=png,svg,pdf]
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eanet import cli
from eanet.display.plot_style import (
    DEFAULT_KINDS,
    FAINT,
    FONT_SIZE,
    INK,
    PALETTE,
    as_files,
    kinds,
    new_figure,
    style,
)
from eanet.errors import UserError
from eanet.files import write

Record = Mapping[str, Any]

_SMALL: Any = {"size": FONT_SIZE, "color": INK, "va": "center", "parse_math": False}
_SCALING = {"milliseconds": "ms", "megabytes": "MB", "multiply_adds": "MACs"}


def throughput(record: Record) -> Any:
    """A panel of bars for each case: medians, with the quartiles as whiskers."""
    cases = record["cases"]
    sizes = [len(case["contestants"]) for case in cases.values()]
    title = "Images per second: medians and quartiles"
    figure = new_figure(7.2, 0.5 + sum(0.75 + 0.28 * size for size in sizes), title)
    grid = figure.subplots(len(cases), 1, squeeze=False, height_ratios=[2.5 + n for n in sizes])
    for axes, case in zip(grid.flat, cases.values(), strict=True):
        _bars(axes, case["title"])
        for row, (name, values) in enumerate(case["contestants"].items()):
            median, colour = values["median"], FAINT if row else PALETTE[0]
            whiskers = [[median - values["lower"]], [values["upper"] - median]]
            axes.barh(name, median, xerr=whiskers, color=colour, height=0.7, ecolor=INK)
            axes.text(values["upper"], row, f"  {median:,.0f}", **_SMALL)
        axes.margins(x=0.12)
    return figure


def ensemble(record: Record) -> Any:
    """A bar for each program, and a point for each of its rounds."""
    results = record["programs"]
    title = "Several seeds in one program: images per second, all together"
    figure = new_figure(6.6, 0.9 + 0.4 * len(results), title)
    axes = figure.subplots()
    _bars(axes, "")
    for row, (name, result) in enumerate(results.items()):
        axes.barh(name, result["median"], color=PALETTE[bool(row)], height=0.6)
        axes.plot(result["rounds"], [row] * len(result["rounds"]), ".", color=INK, markersize=3)
        axes.text(max(result["rounds"]), row, f"  {result['ratio']:.2f} ×", **_SMALL)
    axes.margins(x=0.12)
    return figure


def profile(record: Record) -> Any:
    """A bar for each part of a step."""
    parts = {name: value for name, value in record["seconds_of_parts"].items() if value > 0}
    figure = new_figure(7.2, 0.9 + 0.28 * len(parts), "Where the time of a training step goes, ms")
    axes = figure.subplots()
    _bars(axes, "")
    for row, (name, value) in enumerate(parts.items()):
        axes.barh(name, 1e3 * value, color=PALETTE[0], height=0.7)
        axes.text(1e3 * value, row, f"  {value / record['seconds']:.0%}", **_SMALL)
    axes.margins(x=0.1)
    return figure


def startup(record: Record) -> Any:
    """The parts in a row, for a cold and a warm start; a line where `main.py` is that far."""
    title = "From the command to the first finished step, seconds"
    figure = new_figure(9, 2.6, title)
    axes = figure.subplots()
    _bars(axes, "")
    for row, (cache, measured) in enumerate(record["seconds"].items()):
        *parts, (_, _), (program, whole) = _in_order(measured)
        left = 0.0
        for colour, (part, value) in zip(PALETTE, parts, strict=False):
            label = None if row else part
            axes.barh(cache, value["median"], left=left, color=colour, label=label, height=0.6)
            left += value["median"]
        label = None if row else program
        axes.vlines(whole["median"], row - 0.4, row + 0.4, color=INK, label=label)
    look: Any = {"frameon": False, "fontsize": FONT_SIZE - 1, "labelcolor": INK}
    figure.legend(loc="outside right center", **look)
    return figure


def scaling(record: Record) -> Any:
    """Time, memory and work by number of tokens, both axes logarithmic."""
    modes = list(dict.fromkeys(point["mode"] for point in record["points"]))
    title = "One attention layer by its number of tokens N, for one image"
    figure = new_figure(11, 0.6 + 3 * len(modes), title)
    grid = figure.subplots(len(modes), len(_SCALING), squeeze=False)
    for row, mode in zip(grid, modes, strict=True):
        curves: dict[str, list[Record]] = {}
        for point in record["points"]:
            if point["mode"] == mode:
                curves.setdefault(point["layer"], []).append(point)
        for axes, (measure, unit) in zip(row, _SCALING.items(), strict=True):
            style(axes, f"{mode.capitalize()}, {unit}", "tokens N")
            for colour, (name, points) in zip(PALETTE, reversed(curves.items()), strict=False):
                tokens, heights = ([each[key] for each in points] for key in ("tokens", measure))
                label = "self-attention" if name == "self" else f"external, {name}"
                axes.loglog(tokens, heights, ".-", color=colour, label=label, base=2)
            axes.set_yscale("log")
            axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1024:g}k" if x > 512 else f"{x:g}")
    grid[0, 0].legend(fontsize=FONT_SIZE - 1, frameon=False, labelcolor=INK)
    return figure


def streaming_memory(record: Record) -> Any:
    """Memory over time, with the limit and what the decoded images would take."""
    figure = new_figure(7.2, 3.4, "Memory of a streamed training, MB")
    axes = figure.subplots()
    style(axes, "", "seconds")
    seconds = [point["seconds"] for point in record["points"]]
    curves = {"counted": "counted by the limit", "resident": "resident", "workers": "its workers"}
    for colour, (key, label) in zip(PALETTE, curves.items(), strict=False):
        axes.plot(seconds, [point[key] for point in record["points"]], color=colour, label=label)
    for key, label in {"limit": "limit", "decoded": "all images, decoded"}.items():
        height = record[f"{key}_megabytes"]
        axes.axhline(height, color=INK if key == "limit" else FAINT, linestyle="--", label=label)
    axes.set_ylim(0)
    figure.legend(loc="outside right center", frameon=False, fontsize=FONT_SIZE, labelcolor=INK)
    return figure


PICTURES = {
    each.__name__: each
    for each in (throughput, ensemble, profile, startup, scaling, streaming_memory)
}


def _in_order(measured: Record) -> list[tuple[str, Any]]:
    """The parts of a start, then what they are in all, then the program."""
    last = ("parts, in all", "main.py, in all")
    parts = [(name, value) for name, value in measured.items() if name not in last]
    return [*parts, *((name, measured[name]) for name in last)]


def _bars(axes: Any, title: str) -> None:
    style(axes, title, "")
    axes.grid(visible=False)
    axes.grid(axis="x", color="#e8e8e8", linewidth=0.8)
    axes.invert_yaxis()


def main(arguments: Sequence[str], prog: str) -> None:
    """Draws the pictures of records anew, beside them."""
    parser = cli.Parser(prog, __doc__)
    parser.add_argument("records", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--figures", type=kinds, default=DEFAULT_KINDS, metavar="KINDS")
    options = parser.parse_args(arguments)
    for path in options.records:
        try:
            figure = PICTURES[path.stem](json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no record of {', '.join(PICTURES)}: {error!r}") from None
        for name, data in as_files(path.stem, figure, options.figures).items():
            cli.say(write(path.with_name(name), data))


if __name__ == "__main__":
    import sys

    cli.run(lambda: main(sys.argv[1:], "python -m benchmarks.pictures"))
