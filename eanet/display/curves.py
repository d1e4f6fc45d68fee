"""`curves.png`, and of other kinds: loss and accuracy of a run over its epochs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eanet import files
from eanet.display import plot_style as plots
from eanet.display.numbers import epochs
from eanet.workdir import log
from eanet.workdir.results import read_results

_SPLITS = {"train": ("training", plots.PALETTE[0]), "val": ("validation", plots.PALETTE[1])}

Records = Sequence[log.Record]


def plot_curves(
    workdir: str | Path, title: str = "", figures: Sequence[str] = plots.DEFAULT_KINDS
) -> Path:
    """Draws `metrics.jsonl` and the best checkpoint's test result, if recorded.

    Args:
      workdir: of the run; there `curves.png` is written.
      title: what was trained; by default the name of the workdir.
      figures: kinds of files, see `eanet.display.plot_style.KINDS`.

    Returns:
      The first of the files.

    Raises:
      UserError: There is no `metrics.jsonl`, or the picture cannot be written.
    """
    workdir = Path(workdir)
    records = log.read(workdir / "metrics.jsonl")
    test = read_results(workdir, "test") or {}
    test = test if log.is_of_best(test, records) else {}
    best = log.best_validation(records)
    state = "nothing recorded yet"
    if records:
        last = max(records, key=lambda record: record["step"])
        state = f"epoch {epochs(last['step'], last['epoch'])}, step {last['step']:,}"
    figure = plots.new_figure(10, 4.2, f"{title or workdir.resolve().name}: {state}")
    loss, accuracy = figure.subplots(1, 2)
    end = max([record["epoch"] for record in records], default=1)
    for axes, title in ((loss, "Loss"), (accuracy, "Accuracy, %")):
        plots.style(axes, title, "epoch")
        axes.set_xlim(0, end if end > 0 else 1)
        axes.locator_params(axis="x", nbins=6, integer=end >= 3)
    labels = {
        loss: _draw_metric(loss, records, "loss", digits=2),
        accuracy: _draw_accuracy(accuracy, records, best, test),
    }
    _ring(loss, best, "loss")
    figure.draw_without_rendering()  # fixes the scales, which the spreading needs
    for axes, texts in labels.items():
        plots.spread(axes, texts)
    drawn = plots.as_files("curves", figure, figures)
    first, *_ = [files.write(workdir / name, data) for name, data in drawn.items()]
    return first


def _draw_accuracy(
    axes: Any, records: Records, best: log.Record | None, test: log.Record
) -> list[Any]:
    texts = []
    for name, prefix, line in (("accuracy", "", "-"), ("top5_accuracy", "top-5 ", "--")):
        texts += _draw_metric(axes, records, name, digits=1, prefix=prefix, line=line)
        result = _number(test, name)
        if math.isfinite(result):
            axes.axhline(result, color=plots.FAINT, linewidth=0.9, zorder=1)
            text = f"{prefix}test {_shown(result, 1)}"
            texts += plots.label(axes, result, text, plots.INK, weight="bold")
    axes.set_ylim(bottom=0)
    _ring(axes, best, "accuracy")
    if best:
        height = _number(best, "accuracy")
        late = best["epoch"] > axes.get_xlim()[1] / 2
        axes.annotate(
            f"best validation {_shown(height, 1)}\nepoch {epochs(best['step'], best['epoch'])}",
            xy=(best["epoch"], height),
            xytext=(-14 if late else 14, -24),
            textcoords="offset points",
            ha="right" if late else "left",
            va="top",
            size=plots.FONT_SIZE,
            color=_SPLITS["val"][1],
            arrowprops={"arrowstyle": "-", "color": plots.FAINT, "linewidth": 0.8, "shrinkB": 4},
        )
    return texts


def _draw_metric(
    axes: Any, records: Records, name: str, digits: int, prefix: str = "", line: str = "-"
) -> list[Any]:
    """Draws a metric of each split; returns labels with the last finite values."""
    texts = []
    for split, (title, colour) in _SPLITS.items():
        shown = [record for record in records if record["split"] == split]
        values = [_number(record, name) for record in shown]
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            continue
        gaps = [True, *(not math.isfinite(value) for value in values), True]
        alone = [index for index in range(len(values)) if gaps[index] and gaps[index + 2]]
        axes.plot(
            [record["epoch"] for record in shown],
            values,
            line,
            color=colour,
            linewidth=1.8 if line == "-" else 1.2,
            # In a long run only points that no line would show.
            marker="o",
            markersize=5,
            markevery=None if len(shown) <= 10 else alone,
            markeredgewidth=0,
            clip_on=False,
            zorder=2,
        )
        text = f"{prefix}{title} {_shown(finite[-1], digits)}"
        texts += plots.label(axes, finite[-1], text, colour)
    return texts


def _ring(axes: Any, best: log.Record | None, name: str) -> None:
    if best and math.isfinite(height := _number(best, name)):
        look = {"color": _SPLITS["val"][1], "markerfacecolor": "white", "markeredgewidth": 1.6}
        axes.plot([best["epoch"]], [height], "o", markersize=6.5, clip_on=False, zorder=3, **look)


def _shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.1e}"


def _number(record: log.Record, name: str) -> float:
    """A value that can be drawn, or NaN; of an accuracy, which is a fraction, in per cent."""
    value = record.get(name)
    least, most, scale = (0.0, 1.0, 100.0) if name.endswith("accuracy") else (-1e30, 1e30, 1.0)
    if isinstance(value, int | float) and least <= value <= most:
        return scale * value if abs(value) > 1e-30 else 0.0
    return math.nan
