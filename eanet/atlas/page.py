"""The page of an atlas: one file with everything in it, which asks the network for nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from eanet.atlas import mosaic, sheets
from eanet.atlas.markup import SHEETS, STYLE, data_uri, figure, points, table, text
from eanet.atlas.photos import Photo
from eanet.atlas.record import SUMMARY, summary
from eanet.data.base import Split

_MOST_CARDS = 160  # units that are shown with their patches; of each block those used most
_RANKED = 12
_CLASSES = 4  # of a unit


@dataclass
class Page:
    """What the page tells, as it comes from measuring."""

    name: str  # of the run
    intro: str  # what was measured, on what
    examples: Split
    grid: tuple[int, int]  # rows and columns of patches
    class_names: Sequence[str]
    photos: Sequence[Photo]
    pictures: Mapping[str, bytes]  # PNG by name
    blocks: Sequence[dict[str, Any]]  # of `measure.units`; empty for self-attention
    without: Mapping[str, Any] = field(default_factory=dict)
    against: Mapping[str, Any] | None = None  # another atlas, see `record.read`


def render(page: Page) -> bytes:
    """The page in HTML, which is well-formed XML too."""
    title = text(f"The {'memory' if page.blocks else 'attention'} of {page.name}")
    body = (_of_units(page) if page.blocks else _of_tokens(page)) + _photos(page)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'" />
<link rel="icon" href="data:," /><title>{title}</title><style>{STYLE}{SHEETS}</style></head>
<body><h1>{title}</h1>
<p class="dim">{text(page.intro)}</p>
{body}</body></html>
""".encode()


def _of_units(page: Page) -> str:
    return "".join(
        [
            "<h2>The memory in short</h2>"
            "<p>Each block has a memory of S units, shared by all images and heads. Effective "
            "units are how many equally used ones would spread the attention as widely. Entropies "
            "are fractions of the largest possible: 1 is spread evenly, 0 is all on one.</p>",
            _summary({page.name: [summary(block) for block in page.blocks]}),
            _figure(page, "memory", "Every unit of every block. A large share alone is not "
                    "importance: the right picture is what accuracy loses, with its noise."),
            _ranking(page),
            _against(page),
            "<h2>Block by block</h2><p>How a block's heads divide their attention over the units, "
            "which units have alike keys, which are used alike, and the classes a unit answers. "
            "Answering a class is no proof that the unit recognises it: colour or texture of its "
            "images will do.</p>",
            *(_block(page, index) for index in range(len(page.blocks))),
            "<h2>Where in the image</h2>",
            _figure(page, "positions", "Mean attention of each unit by position. It is over all "
                    "images: what no single one shows."),
            "<h2>Unit by unit</h2><p>The patches, one of each image, with most attention to the "
            "unit on average over the heads. A head asks in its own way, so a unit may stand for "
            "one thing in one head and another in the next: the mean does not show that. The small "
            "map is where in the image it has its attention.</p>",
            *(_cards(page, index) for index in range(len(page.blocks))),
        ]
    )  # fmt: skip


def _of_tokens(page: Page) -> str:
    return (
        "<p>This model has self-attention. It has no memory, so that there are no units to show, "
        "to compare or to switch off: what follows is how its tokens look at one another.</p>"
        "<h2>Heads</h2>"
        + _figure(page, "heads", "Mean over images and tokens.")
        + "<h2>Attention rollout by position</h2>"
        + _figure(
            page,
            "positions",
            "How much of the mean token after each block comes from each patch, by attention "
            "rollout (Abnar and Zuidema, 2020): the product over blocks of half attention, half "
            "residual. It leaves values and MLPs out, and shows no cause.",
        )
    )


def _summary(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    names = list(next(iter(runs.values()))[0])
    heading = [*(["run"] if len(runs) > 1 else []), "block", *(SUMMARY[name] for name in names)]
    rows = [
        [*([run] if len(runs) > 1 else []), index, *(f"{block[name]:.4g}" for name in names)]
        for run, blocks in runs.items()
        for index, block in enumerate(blocks, 1)
    ]
    return table(heading, rows)


def _ranking(page: Page) -> str:
    change, margin = page.without["change"], page.without["margin"]
    rows = []
    for place in np.argsort(change, axis=None, kind="stable")[:_RANKED]:
        block, unit = np.unravel_index(place, change.shape)
        at = (block, unit)
        share = page.blocks[block]["share"][unit] * change.shape[1]
        rows.append(
            [block + 1, unit + 1, points(change[at], margin[at]),
             page.without["lost"][at], page.without["won"][at], f"{share:.2f}"]
        )  # fmt: skip
    count = page.without["num_examples"]
    return (
        "<h2>The units that are missed most</h2><p>Each unit alone was switched off in all heads "
        "of its block, by setting its row of the value memory to zero, and "
        f"{count:,} images were classified again; "
        f"{100 * page.without['accuracy']:.2f} % are right with all units. ± is a 95 % interval, "
        f"paired by image; the largest of {change.size} such losses is partly luck. Units that "
        "stand in for one another are each missed little, though both together may be needed.</p>"
        + table(["block", "unit", "accuracy, points", "lost", "won", "share / uniform"], rows)
    )


def _against(page: Page) -> str:
    if page.against is None:
        return ""
    other = page.against
    note = (
        f"The other run: {other['num_examples']:,} images of {other['split']}, "
        f"{100 * other['accuracy']:.2f} % right. Units have no order, so that unit 3 of one run "
        "is not unit 3 of another: blocks are compared, not units."
    )
    runs = {page.name: [summary(block) for block in page.blocks], other["run"]: other["summary"]}
    return (
        f"<h2>Against {text(other['run'])}</h2><p>{text(note)}</p>"
        + _figure(page, "against", "Block by block; losses are measured on each run's own images.")
        + f"<details><summary>As a table</summary>{_summary(runs)}</details>"
    )


def _block(page: Page, index: int) -> str:
    opened = ' open="open"' if index == 0 else ""
    return (
        f"<details{opened}><summary>Block {index + 1}</summary>"
        + _figure(page, f"block_{index + 1}", _remarks(page.blocks[index]))
        + "</details>"
    )


def _remarks(block: Mapping[str, Any]) -> str:
    dead = ", ".join(str(unit + 1) for unit in block["dead"]) or "none"
    twins = ", ".join(f"{a + 1} and {b + 1}" for a, b in block["twins"]) or "none"
    return f"Dead units: {dead}. Twins: {twins}."


def _cards(page: Page, index: int) -> str:
    block = page.blocks[index]
    most = max(1, _MOST_CARDS // len(page.blocks))
    units = np.argsort(-block["share"], kind="stable")[:most]
    left_out = len(block["share"]) - len(units)
    note = f"<p class='dim'>{left_out} units used less are in atlas.json.</p>" if left_out else ""
    opened = ' open="open"' if index == 0 else ""
    cards = "".join(_card(page, index, int(unit)) for unit in sorted(units))
    return (
        f"<details{opened}><summary>Units of block {index + 1}</summary>{note}"
        f'<div class="cards">{cards}</div></details>'
    )


def _card(page: Page, index: int, unit: int) -> str:
    block = page.blocks[index]
    images, tokens = (block["patches"][key][unit] for key in ("image", "token"))
    strip = mosaic.sheet([[mosaic.small(page.examples.images[image]) for image in images]])
    height, width = strip.shape[:2]
    side = (width + 2) / len(images)
    boxes = "".join(
        f'<rect x="{place * side + x * (side - 2):.2f}" y="{y * height:.2f}" '
        f'width="{w * (side - 2):.2f}" height="{h * height:.2f}"/>'
        for place, token in enumerate(tokens)
        for x, y, w, h in [mosaic.patch_box(token, page.grid)]
    )
    profile = np.nan_to_num(block["classes"][unit])
    liked = ", ".join(
        f"{text(page.class_names[c])} ×{profile[c]:.1f}"
        for c in np.argsort(-profile, kind="stable")[:_CLASSES]
    )
    off = points(*(page.without[key][index, unit] for key in ("change", "margin")))
    spread = block["entropy_over_tokens"][unit]
    where = np.nan_to_num(mosaic.on_grid(block["positions"][unit], page.grid))
    where = np.clip(127.5 * where, 0, 255).astype(np.uint8)
    map_ = f'<image href="{data_uri(Image.fromarray(where))}" width="{page.grid[1]}" '
    return (
        f'<div class="card"><svg class="where" viewBox="0 0 {page.grid[1]} {page.grid[0]}">'
        f'<title>where</title>{map_}height="{page.grid[0]}"/></svg>'
        f"<b>Unit {unit + 1}</b> · {block['share'][unit] * len(block['share']):.2f} of a uniform "
        f"share · entropy over tokens {spread:.2f}<br/>without it: {off} points"
        f'<svg viewBox="0 0 {width} {height}" role="img"><title>patches of unit {unit + 1}</title>'
        f'<image href="{data_uri(Image.fromarray(strip))}" width="{width}" height="{height}"/>'
        f'<g fill="none" stroke="#e69f00">{boxes}</g></svg>{liked}</div>\n'
    )


def _photos(page: Page) -> str:
    units = bool(page.blocks)
    parts = [f"<h2>Single images</h2><p>{sheets.explained(units)}</p>"]
    for number, photo in enumerate(page.photos, 1):
        likeliest = ", ".join(f"{text(name)} {100 * p:.0f} %" for name, p in photo.predicted)
        true = f"; it is {text(photo.true)}" if photo.true is not None else ""
        parts.append(
            f"<h3>{text(photo.name)}</h3><p>Predicted: {likeliest}{true}.</p>"
            + sheets.of_photo(photo, page.grid, f"photo{number}", units=units)
        )
    return "".join(parts)


def _figure(page: Page, name: str, caption: str) -> str:
    return figure(page.pictures[name], name.replace("_", " "), caption)
