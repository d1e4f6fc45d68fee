"""How the pictures look: one style, without matplotlib's global state."""

import io
import logging
import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from eanet.errors import UserError, printable

INK = "#333333"
FAINT = "#999999"
FONT_SIZE = 9
_LETTER = 0.088  # inches, on average, of a title
KINDS = ("png", "svg", "pdf")  # of files
DEFAULT_KINDS = ("png",)  # that pages and reports show

# Okabe and Ito's colours: distinct for colour-blind readers.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#000000")


def new_figure(width: float, height: float, title: str) -> Any:
    """An empty figure of this many inches."""
    # Where its directory cannot be written, matplotlib is slower to start, which helps nobody here.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.04)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    title = _wrapped(printable(title), int(width / _LETTER))
    figure.suptitle(title, x=0.01, ha="left", size=12, color=INK, parse_math=False)
    return figure


def _wrapped(title: str, most: int) -> str:
    """The title in as few lines of so many letters as it takes.

    They end with what a comma or colon ends, where that is possible, else are about equally long.
    """
    fewest = len(textwrap.wrap(title, most))
    wrapped = [textwrap.wrap(title, width) for width in range(len(title) // fewest, most + 1)]
    even, *_ = good = [lines for lines in wrapped if len(lines) == fewest]
    at_signs = (lines for lines in good if all(line[-1] in ",:;" for line in lines[:-1]))
    return "\n".join(next(at_signs, even))


def kinds(text: str) -> tuple[str, ...]:
    """The kinds of files that `--figures=png,pdf` asks for, with PNG, which reports show.

    Raises:
      UserError: for a kind that is not of `KINDS`.
    """
    asked = [part.strip() for part in text.split(",")]
    for kind in asked:
        if kind not in KINDS:
            raise UserError(f"--figures={text}: {kind!r} is none of {', '.join(KINDS)}")
    return tuple(dict.fromkeys([*DEFAULT_KINDS, *asked]))


def as_files(name: str, figure: Any, kinds: Sequence[str]) -> dict[str, bytes]:
    """The picture as a file of each kind: "NAME.png" and so on."""
    return {f"{name}.{kind}": saved(figure, kind) for kind in kinds}


def saved(figure: Any, kind: str) -> bytes:
    """The picture as a file of a kind of `KINDS`; it does not tell the time."""
    from matplotlib import rc_context

    picture = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"pdf.fonttype": 42}):  # publishers refuse the default, Type 3
        figure.savefig(picture, format=kind, metadata=undated.get(kind))
    return picture.getvalue()


def style(axes: Any, title: str, xlabel: str) -> None:
    """Horizontal lines only, the title where the label of the vertical axis would be."""
    axes.set_title(title, loc="left", size=10, color=INK, parse_math=False)
    axes.set_xlabel(xlabel, size=FONT_SIZE, color=INK, parse_math=False)
    axes.grid(axis="y", color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=FONT_SIZE, color=FAINT, labelcolor=INK, left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def beside(axes: Any, artists: list[Any], points: float) -> None:
    """Moves what is drawn to the right by so many points, whatever the scale becomes."""
    from matplotlib.transforms import offset_copy

    moved = offset_copy(axes.transData, axes.figure, x=points, units="points")
    for artist in artists:
        artist.set_transform(moved)


def label(axes: Any, height: float, text: str, colour: str, weight: str = "normal") -> list[Any]:
    """Writes beside the right end of a line what it is; nothing for a line without points."""
    if not math.isfinite(height):
        return []
    transform = axes.get_yaxis_transform()
    look = {"color": colour, "size": FONT_SIZE, "weight": weight, "va": "center"}
    return [axes.text(1.025, height, text, transform=transform, parse_math=False, **look)]


def spread(axes: Any, texts: list[Any]) -> None:
    """Moves labels up and down, as little as it takes, until none covers another.

    Those beside the upper edge move down only. The scale must be fixed by now.
    """
    gap = 1.35 * FONT_SIZE * axes.figure.dpi / 72
    texts = sorted(texts, key=lambda text: text.get_position()[1])
    heights = [axes.transData.transform((0, text.get_position()[1]))[1] for text in texts]
    # Least squares under "at least one gap apart" is isotonic regression of height − index·gap:
    # neighbours out of order are pooled at their mean.
    pools: list[list[float]] = []
    for index, height in enumerate(heights):
        pools.append([height - index * gap])
        while any(sum(a) / len(a) > sum(b) / len(b) for a, b in pairwise(pools[-2:])):
            pools[-2:] = [pools[-2] + pools[-1]]
    ceiling = axes.bbox.ymax - (len(texts) - 1) * gap
    placed = [min(sum(pool) / len(pool), ceiling) for pool in pools for _ in pool]
    for index, (text, height) in enumerate(zip(texts, placed, strict=True)):
        x, _ = text.get_position()
        text.set_position((x, axes.transData.inverted().transform((0, height + index * gap))[1]))
