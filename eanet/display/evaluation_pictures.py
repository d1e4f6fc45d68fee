"""The pictures of an evaluation: what is taken for what, how sure, and the surest mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from eanet.display.plot_style import FAINT, FONT_SIZE, INK, PALETTE, new_figure, style
from eanet.errors import printable

_MOST_NAMES = 120  # beside a matrix; more cannot be read
_SHARES = (0, 1, 5, 10, 25, 50, 100)  # per cent, in the scale of colours
_KEPT_IN_ORDER = 20  # classes that are few enough to be found
_LONGEST = 18  # letters of a class name
MISTAKES = 24
_COLUMNS = 8


def draw_confusion(
    title: str, confusion: Int[np.ndarray, "classes classes"], class_names: Sequence[str]
) -> Any:
    """The matrix, a row for each label as shares of its images, beside the most confused pairs.

    Many classes are put in an order in which those that are confused are neighbours.
    """
    from matplotlib.colors import PowerNorm

    count = len(class_names)
    order: Any = _neighbours(confusion) if count > _KEPT_IN_ORDER else np.arange(count)
    names = [short(class_names[index]) for index in order] if count <= _MOST_NAMES else []
    size = FONT_SIZE if count <= _KEPT_IN_ORDER else min(FONT_SIZE, 500 / count)
    side = min(max(4.2, 0.088 * count), 10.0)
    # Two hundred names would be measured again and again by a layout that finds its own margins.
    margin = 0.4 + 0.0085 * size * max(map(len, names), default=0)
    width, height = margin + side + 4.9, margin + side + 0.85
    figure = new_figure(width, height, title)
    figure.set_layout_engine("none")

    def axes_at(left: float, share: float) -> Any:
        return figure.add_axes((left / width, margin / height, share / width, side / height))

    matrix, scale = axes_at(margin, side), axes_at(margin + side + 0.15, 0.15)
    shares = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = matrix.imshow(shares[order][:, order], cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    _bare(matrix, "Share of the images of a class, %", "predicted class")
    matrix.set_ylabel("true class", size=FONT_SIZE, color=INK)
    ticks = np.arange(len(names))
    matrix.set_yticks(ticks, names, size=size, parse_math=False)
    matrix.set_xticks(ticks, names, size=size, rotation=90, parse_math=False)
    bar = figure.colorbar(image, cax=scale, ticks=_SHARES)
    scale.tick_params(labelsize=FONT_SIZE - 1, color=FAINT, labelcolor=INK)
    bar.outline.set_visible(False)
    _draw_pairs(axes_at(margin + side + 1.1, 3.6), confusion, class_names, round(2.2 * side))
    return figure


def _draw_pairs(
    axes: Any, confusion: Int[np.ndarray, "classes classes"], class_names: Sequence[str], most: int
) -> None:
    both = np.triu(confusion + confusion.T, 1)
    largest = np.argsort(-both, axis=None, kind="stable")[:most]
    pairs = [
        pair for pair in zip(*np.unravel_index(largest, both.shape), strict=True) if both[pair]
    ]
    _bare(axes, "Most confused pairs: images, there and back", "")
    axes.set(
        ylim=(most - 0.5, -0.5), xlim=(0, 1.3 * max((both[pair] for pair in pairs), default=1))
    )
    axes.set(xticks=[], yticks=[])
    for row, pair in enumerate(pairs):
        one, other = pair if confusion[pair] >= confusion[pair[::-1]] else pair[::-1]
        there, back = confusion[one, other], confusion[other, one]
        bar: Any = {"y": row + 0.2, "height": 0.34, "linewidth": 0}
        axes.barh(width=there, color=PALETTE[0], **bar)
        axes.barh(width=back, left=there, color=PALETTE[5], **bar)
        text: Any = {"size": FONT_SIZE - 1, "color": INK, "va": "center", "parse_math": False}
        axes.text(0, row - 0.2, f"{short(class_names[one])} → {short(class_names[other])}", **text)
        axes.text(there + back, row + 0.2, f" {there}, {back}", **text)


def _neighbours(confusion: Int[np.ndarray, "classes classes"]) -> Int[np.ndarray, "classes"]:
    """An order of the classes by hierarchical clustering of how often they are confused."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    distances = 1 - (shares + shares.T) / 2
    condensed = distances[np.triu_indices(len(confusion), 1)]
    return leaves_list(linkage(condensed, "average", optimal_ordering=True))


def draw_calibration(title: str, panels: Mapping[str, tuple[Any, Any, Any]]) -> Any:
    """Reliability diagrams by their titles: images, mean confidence and accuracy of each bin."""
    figure = new_figure(4.6 * len(panels), 5.4, title)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex=True, height_ratios=(3, 1))
    for (above, below), (name, bins) in zip(grid.T, panels.items(), strict=True):
        _draw_reliability(above, below, name, *bins)
    return figure


def _draw_reliability(
    above: Any,
    below: Any,
    title: str,
    images: Int[np.ndarray, "bins"],
    confidence: Float[np.ndarray, "bins"],
    accuracy: Float[np.ndarray, "bins"],
) -> None:
    width = 100 / len(images)
    left = width * (np.arange(len(images)) + 0.05)
    bar: Any = {"width": 0.9 * width, "align": "edge", "linewidth": 0}
    above.bar(left, 100 * accuracy, color=PALETTE[5], label="accuracy", **bar)
    above.hlines(
        100 * confidence,
        left,
        left + 0.9 * width,
        PALETTE[1],
        linewidth=2,
        label="mean probability",
    )
    above.plot((0, 100), (0, 100), "--", color=FAINT, linewidth=1)
    style(above, title, "")
    above.set(xlim=(0, 100), ylim=(0, 100), yticks=range(0, 101, 20))
    above.set_ylabel("accuracy, %", size=FONT_SIZE, color=INK)
    above.legend(loc="upper left", frameon=False, fontsize=FONT_SIZE - 1, labelcolor=INK)
    below.bar(left, 100 * images / images.sum(), color=FAINT, **bar)
    style(below, "Images, %", "probability of the predicted class, %")


def draw_mistakes(
    title: str, images: UInt8[np.ndarray, "n h w c"], captions: Sequence[tuple[str, str]]
) -> Any:
    """Images with two lines below each: what was predicted and how surely, and what it is."""
    rows = max(1, -(-len(images) // _COLUMNS))
    figure = new_figure(1.5 * _COLUMNS, 1.85 * rows + 0.5, title)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, (predicted, true) in zip(grid, images, captions, strict=False):
        pixels = image if image.shape[-1] == 3 else image[..., 0]
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        text: Any = {"transform": axes.transAxes, "size": FONT_SIZE - 1.5, "parse_math": False}
        axes.text(0, -0.10, predicted, color=PALETTE[1], **text)
        axes.text(0, -0.23, true, color=INK, **text)
    return figure


def _bare(axes: Any, title: str, xlabel: str) -> None:
    style(axes, title, xlabel)
    axes.grid(visible=False)
    axes.tick_params(bottom=False, left=False, pad=1)
    axes.spines["bottom"].set_visible(False)


def short(name: str) -> str:
    """The name of a class, cut where it is long."""
    name = printable(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
