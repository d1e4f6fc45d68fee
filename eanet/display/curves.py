"""`curves.png`: loss and accuracy of a run over its epochs."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eanet import files
from eanet.display.numbers import epochs
from eanet.display.plot_style import FAINT, FONT_SIZE, INK, label, new_figure, png, spread, style
from eanet.workdir import log
from eanet.workdir.results import read_results

# Okabe and Ito's blue and vermilion: distinct for colour-blind readers, and in grey.
_COLOURS = {"train": "#0072B2", "val": "#D55E00"}
_NAMES = {"train": "training", "val": "validation"}

Record = Mapping[str, Any]


def plot_curves(workdir: str | Path) -> Path:
    """Draws `curves.png` from `metrics.jsonl`, with the best checkpoint's test result if recorded.

    Returns:
      The path of the picture.

    Raises:
      UserError: There is no `metrics.jsonl`, or the picture cannot be written.
    """
    workdir = Path(workdir)
    records = log.read(workdir / "metrics.jsonl")
    test = read_results(workdir, "test") or {}
    test = test if log.is_of_best(test, records) else {}
    best = log.best_validation(records)

    figure = new_figure(10, 4.2, _title(workdir, records))
    loss, accuracy = figure.subplots(1, 2)
    for axes, title in ((loss, "Loss"), (accuracy, "Accuracy, %")):
        style(axes, title, "epoch")
        _scale(axes, max([record["epoch"] for record in records], default=1))
    labels = [
        (loss, _draw_loss(loss, records, best)),
        (accuracy, _draw_accuracy(accuracy, records, best, test)),
    ]
    figure.draw_without_rendering()  # fixes the scales, which the spreading needs
    for axes, texts in labels:
        spread(axes, texts)

    return files.write(workdir / "curves.png", png(figure))


def _draw_loss(axes: Any, records: list[dict[str, Any]], best: Record | None) -> list[Any]:
    texts = []
    for split in _COLOURS:
        end = _draw_line(axes, records, split, "loss")
        texts += label(axes, end, f"{_NAMES[split]} {_shown(end, 2)}", _COLOURS[split])
    if best and math.isfinite(height := _number(best, "loss")):
        _ring(axes, best["epoch"], height)
    return texts


def _draw_accuracy(
    axes: Any, records: list[dict[str, Any]], best: Record | None, test: Record
) -> list[Any]:
    texts = []
    for name, prefix, line in (("accuracy", "", "-"), ("top5_accuracy", "top-5 ", "--")):
        for split in _COLOURS:
            end = _draw_line(axes, records, split, name, scale=100, line=line)
            texts += label(axes, end, f"{prefix}{_NAMES[split]} {_shown(end, 1)}", _COLOURS[split])
        result = 100 * _number(test, name)
        if math.isfinite(result):
            axes.axhline(result, color=FAINT, linewidth=0.9, zorder=1)
            texts += label(axes, result, f"{prefix}test {_shown(result, 1)}", INK, weight="bold")
    axes.set_ylim(bottom=0)
    if best:
        height = 100 * best["accuracy"]
        _ring(axes, best["epoch"], height)
        late = best["epoch"] > axes.get_xlim()[1] / 2
        axes.annotate(
            f"best validation {_shown(height, 1)}\nepoch {epochs(best['step'], best['epoch'])}",
            xy=(best["epoch"], height),
            xytext=(-14 if late else 14, -24),
            textcoords="offset points",
            ha="right" if late else "left",
            va="top",
            size=FONT_SIZE,
            color=_COLOURS["val"],
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkB": 4},
        )
    return texts


def _draw_line(
    axes: Any,
    records: list[dict[str, Any]],
    split: str,
    name: str,
    scale: float = 1,
    line: str = "-",
) -> float:
    """Draws one metric of one split; returns its last finite value, NaN where there is none."""
    shown = [record for record in records if record["split"] == split]
    values = [scale * _number(record, name) for record in shown]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan
    gaps = [True, *(not math.isfinite(value) for value in values), True]
    alone = [index for index in range(len(values)) if gaps[index] and gaps[index + 2]]
    axes.plot(
        [record["epoch"] for record in shown],
        values,
        line,
        color=_COLOURS[split],
        linewidth=1.8 if line == "-" else 1.2,
        # In a long run only points that no line would show.
        marker="o",
        markersize=5,
        markevery=None if len(shown) <= 10 else alone,
        markeredgewidth=0,
        clip_on=False,
        zorder=2,
    )
    return finite[-1]


def _ring(axes: Any, epoch: float, height: float) -> None:
    look = {"color": _COLOURS["val"], "markerfacecolor": "white", "markeredgewidth": 1.6}
    axes.plot([epoch], [height], "o", markersize=6.5, clip_on=False, zorder=3, **look)


def _scale(axes: Any, end: float) -> None:
    axes.set_xlim(0, end if end > 0 else 1)
    axes.locator_params(axis="x", nbins=6, integer=end >= 3)


def _title(workdir: Path, records: list[dict[str, Any]]) -> str:
    name = workdir.resolve().name
    if not records:
        return f"{name}: nothing recorded yet"
    last = max(records, key=lambda record: record["step"])
    return f"{name}: epoch {epochs(last['step'], last['epoch'])}, step {last['step']:,}"


def _shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.1e}"


def _number(record: Record, name: str) -> float:
    """A value that can be drawn, or NaN; an accuracy is a fraction."""
    value = record.get(name)
    least, most = (0.0, 1.0) if name.endswith("accuracy") else (-1e30, 1e30)
    if isinstance(value, int | float) and least <= value <= most:
        return float(value) if abs(value) > 1e-30 else 0.0
    return math.nan
