"""The pictures of an atlas, for its page and for papers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from eanet.atlas import mosaic
from eanet.atlas.photos import Photo
from eanet.atlas.record import SUMMARY
from eanet.data.base import Split
from eanet.display.evaluation_pictures import short
from eanet.display.plot_style import FAINT, FONT_SIZE, INK, PALETTE, new_figure, style

_MOST_NAMES = 20  # of classes, below a map
_MOST_UNITS = 32  # whose small pictures stand in one figure
_MOST_TICKS = 12
_MARK: Any = {"linewidth": 1.2, "edgecolor": PALETTE[4], "facecolor": "none"}


def of_units(
    name: str,
    blocks: Sequence[dict[str, Any]],
    examples: Split,
    grid: tuple[int, int],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """All figures of a run with a memory, by name."""
    title = f"{name}: attention to each unit, and what is lost without it"
    figures = {"memory": memory(title, blocks)}
    for number, each in enumerate(blocks, 1):
        figures[f"block_{number}"] = block(f"{name}: block {number}", each, class_names)
        title = f"{name}: patches that units of block {number} answer most"
        figures[f"patches_{number}"] = patches(title, each, examples, grid)
    where = [each["positions"] for each in blocks]
    return {**figures, "positions": positions(f"{name}: attention by position", where, grid)}


def of_tokens(name: str, blocks: Sequence[dict[str, Any]], grid: tuple[int, int]) -> dict[str, Any]:
    """All figures of a run with self-attention, by name."""
    rolled = np.stack([len(each["rollout"]) * each["rollout"] for each in blocks])
    return {
        "heads": self_attention(f"{name}: heads of self-attention", blocks),
        "positions": positions(f"{name}: attention rollout by position", [rolled], grid, "block"),
    }


def memory(title: str, blocks: Sequence[dict[str, Any]]) -> Any:
    """All units of all blocks: how much attention they have, and what is lost without them."""
    share = np.stack([len(block["share"]) * block["share"] for block in blocks])
    change = 100 * np.stack([block["change"] for block in blocks])
    figure = new_figure(11, 1.9 + 0.32 * len(blocks), title)
    left, right = figure.subplots(1, 2)
    text = "Share of the attention: 1 is uniform, 2 twice that or more"
    _map(left, share, text, "unit", "PuOr", (0, 2))
    most = max(float(np.abs(change).max()), 0.1)
    title = "Change of accuracy when a unit is off, points"
    _map(right, change, title, "unit", "RdBu", (-most, most))
    for axes in (left, right):
        axes.set_ylabel("block", size=FONT_SIZE, color=INK)
        axes.set_yticks(range(len(blocks)), range(1, len(blocks) + 1))
    return figure


def block(title: str, measures: dict[str, Any], class_names: Sequence[str]) -> Any:
    """One block: its heads, what its units have in common, and the classes that they answer."""
    figure = new_figure(11, 6.6, title)
    axes = figure.subplot_mosaic([["heads", "keys", "use"], ["classes"] * 3])
    by_head = measures["share_by_head"]
    most = max(2 / by_head.shape[1], float(by_head.max()))
    _map(axes["heads"], by_head, "Share of a head's attention", "unit", "Blues", (0, most))
    axes["heads"].set_ylabel("head", size=FONT_SIZE, color=INK)
    for name, key, text in (
        ("keys", "key_similarity", "Cosine similarity of the keys"),
        ("use", "attention_similarity", "Cosine similarity of the attention"),
    ):
        _map(axes[name], measures[key], text, "unit", "RdBu_r", (-1, 1))
        axes[name].set_ylabel("unit", size=FONT_SIZE, color=INK)
    few = len(class_names) <= _MOST_NAMES
    text = "Attention of the images of a class: 1 is the unit's mean"
    label = "" if few else "class, by its number"
    _map(axes["classes"], measures["classes"], text, label, "PuOr", (0.5, 1.5))
    axes["classes"].set_ylabel("unit", size=FONT_SIZE, color=INK)
    if few:
        names = [short(name) for name in class_names]
        axes["classes"].set_xticks(
            range(len(names)), names, rotation=45, ha="right", parse_math=False
        )
    return figure


def positions(
    title: str,
    blocks: Sequence[Float[np.ndarray, "s n"]],
    grid: tuple[int, int],
    across: str = "unit",
) -> Any:
    """Where each unit of each block has its attention, on average over the images."""
    rows = []
    for each in blocks:
        relative = np.nan_to_num(each[:_MOST_UNITS], nan=0.0)
        framed = mosaic.on_grid(relative, grid)
        rows.append(np.concatenate([np.pad(cell, 1, constant_values=np.nan) for cell in framed], 1))
    values = np.concatenate(rows)
    width = 9.5
    height = max(1.6, (width - 1.4) * values.shape[0] / values.shape[1]) + 1.0
    figure = new_figure(width, min(height, 14), title)
    axes = figure.subplots()
    _map(axes, values, "1 = as much as everywhere", across, "PuOr", (0, 2))
    rows_each, columns = grid[0] + 2, grid[1] + 2
    shown = values.shape[1] // columns
    axes.set_yticks((np.arange(len(blocks)) + 0.5) * rows_each - 0.5, range(1, len(blocks) + 1))
    axes.set_xticks((np.arange(shown) + 0.5) * columns - 0.5, range(1, shown + 1))
    axes.set_ylabel("block", size=FONT_SIZE, color=INK)
    if across == "block":
        axes.set(yticks=[], ylabel="")
    axes.set_aspect("equal")
    return figure


def patches(title: str, measures: dict[str, Any], examples: Split, grid: tuple[int, int]) -> Any:
    """For each unit the patches that it answers most, framed in their images."""
    from matplotlib.patches import Rectangle

    found = measures["patches"]
    units = min(len(found["image"]), _MOST_UNITS)
    per_row = 2 if units > 1 else 1
    strips, boxes = [], []
    for unit in range(units):
        images = [mosaic.small(examples.images[index]) for index in found["image"][unit]]
        height, width = images[0].shape[:2]
        strips.append(mosaic.sheet([images]))
        row, column = divmod(unit, per_row)
        for index, token in enumerate(found["token"][unit]):
            left, top, w, h = mosaic.patch_box(token, grid)
            x = column * (strips[0].shape[1] + width) + index * (width + 2) + left * width
            boxes.append((x - 0.5, row * (height + 4) + top * height - 0.5, w * width, h * height))
    rows = -(-units // per_row)
    strip_height, strip_width = strips[0].shape[:2]
    page = np.full(
        (rows * (strip_height + 4), per_row * (strip_width + width) - width, 3), 255, np.uint8
    )
    for unit, strip in enumerate(strips):
        row, column = divmod(unit, per_row)
        x, y = column * (strip_width + width), row * (strip_height + 4)
        page[y : y + strip_height, x : x + strip_width] = strip
    figure = new_figure(7.5, 1 + 6.9 * page.shape[0] / page.shape[1], title)
    axes = figure.subplots()
    axes.imshow(page, interpolation="nearest")
    axes.set_axis_off()
    for x, y, w, h in boxes:
        axes.add_patch(Rectangle((x, y), w, h, **_MARK))
    for unit in range(units):
        row, column = divmod(unit, per_row)
        x, y = column * (strip_width + width), row * (strip_height + 4) + strip_height / 2
        text: Any = {"ha": "right", "va": "center", "size": FONT_SIZE, "color": INK}
        axes.text(x - 0.2 * width, y, str(unit + 1), **text)
    return figure


def photo(it: Photo, grid: tuple[int, int], kind: str) -> Any:
    """Attention on one image: a row for each block; each token's is the mean over heads."""
    image = mosaic.small(it.pixels)
    rows = []
    for attention in it.attention:
        tokens = mosaic.scaled(attention.mean(0).T)[:_MOST_UNITS]
        rows.append([mosaic.overlay(image, each) for each in mosaic.on_grid(tokens, grid)])
    if kind != "units":  # blocks beside one another
        rows = [[row[0] for row in rows]]
    page = mosaic.sheet(rows)
    title = f"{it.name}: predicted {it.predicted[0][0]}"
    figure = new_figure(9.5, 1.1 + max(0.7, 8.6 * page.shape[0] / page.shape[1]), title)
    axes = figure.subplots()
    axes.imshow(page, interpolation="nearest")
    height, width = image.shape[:2]
    across = (np.arange(len(rows[0])) * (width + 2) + (width - 1) / 2, range(1, len(rows[0]) + 1))
    down = (np.arange(len(rows)) * (height + 2) + (height - 1) / 2, range(1, len(rows) + 1))
    axes.set_xticks(*across)
    axes.set_yticks(*(down if kind == "units" else ([],)))
    axes.set_xlabel("unit" if kind == "units" else "block", size=FONT_SIZE, color=INK)
    axes.set_ylabel("block" if kind == "units" else "", size=FONT_SIZE, color=INK)
    axes.tick_params(labelsize=FONT_SIZE, labelcolor=INK, length=0)
    axes.spines[:].set_visible(False)
    return figure


def self_attention(title: str, blocks: Sequence[dict[str, Any]]) -> Any:
    """How widely each head of self-attention looks, and how much at its own token."""
    figure = new_figure(9.5, 1.9 + 0.32 * len(blocks), title)
    for axes, key, text in zip(
        figure.subplots(1, 2),
        ("entropy_over_tokens", "own_token"),
        ("Entropy over tokens, 1 = uniform", "Attention to the own token"),
        strict=True,
    ):
        _map(axes, np.stack([block[key] for block in blocks]), text, "head", "Blues", (0, 1))
        axes.set_ylabel("block", size=FONT_SIZE, color=INK)
        axes.set_yticks(range(len(blocks)), range(1, len(blocks) + 1))
    return figure


def against(title: str, runs: dict[str, Sequence[dict[str, float]]]) -> Any:
    """Summaries of the blocks of two atlases over one another."""
    shown = ("effective_units", "entropy_over_units", "entropy_over_tokens", "largest_loss")
    figure = new_figure(11, 3.4, title)
    for axes, key in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for (name, blocks), colour in zip(runs.items(), PALETTE, strict=False):
            values = [each[key] for each in blocks]
            axes.plot(range(1, len(blocks) + 1), values, "o-", color=colour, label=name, ms=4)
        style(axes, SUMMARY[key][0].upper() + SUMMARY[key][1:], "block")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    handles, names = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside lower left", ncols=2, frameon=False)
    for text in legend.get_texts():
        text.set(size=FONT_SIZE, color=INK, parse_math=False)
    return figure


def _map(
    axes: Any,
    values: Float[np.ndarray, "rows columns"],
    title: str,
    xlabel: str,
    colours: str,
    limits: tuple[float, float],
) -> None:
    style(axes, title, xlabel)
    axes.grid(visible=False)
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.spines["bottom"].set_visible(False)
    rows, columns = values.shape
    for axis, count in ((axes.xaxis, columns), (axes.yaxis, rows)):
        places = np.arange(0, count, max(1, -(-count // _MOST_TICKS)))
        axis.set_ticks(places, [str(place + 1) for place in places])
    axes.tick_params(bottom=False)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02, format="{x:.3g}")
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, color=FAINT, labelcolor=INK)
    bar.outline.set_visible(False)
