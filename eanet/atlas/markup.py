"""The pieces of HTML that a page is made of, and its style."""

import base64
import html
import io
from collections.abc import Iterable

from PIL import Image

from eanet.errors import printable

# Of sheets of attention, wherever they are shown.
SHEETS = """
.scroll { overflow-x: auto }
.photo { width: 6rem; display: block; margin: 0 0 .6rem }
.veil { width: 100%; height: auto; display: block }
image { image-rendering: pixelated }
"""

# Of a page of its own, besides.
STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --dim: #667; --page: #fcfcfb; --card: #fff;
  --line: #ddd; --mark: #0072b2 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --dim: #9aa3ad; --page: #14171b;
  --card: #1d2126; --line: #343a42; --mark: #56b4e9 } }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem }
h2 { margin: 3rem 0 .5rem }
p { max-width: 46rem }
.dim, figcaption { color: var(--dim); font-size: .9rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line) }
th { font-weight: 600; font-size: .85rem; vertical-align: bottom; overflow-wrap: normal }
figure { margin: 1.2rem 0 }
figure img { width: 100%; background: #fff; border-radius: 6px; display: block }
.wide img { min-width: 44rem }
details { border-top: 1px solid var(--line); padding: .6rem 0 }
summary { cursor: pointer; font-weight: 600 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  gap: .8rem; margin-top: .8rem }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .8rem; font-size: .88rem; line-height: 1.4 }
.card svg { width: 100%; height: auto; display: block; margin: .4rem 0 }
.card .where { width: 3.2rem; float: right; margin: 0 0 .2rem .6rem }
"""


def figure(png: bytes, alt: str, caption: str) -> str:
    """A picture that is wider than a phone, and the words below it."""
    source = base64.b64encode(png).decode()
    return (
        f'<figure><div class="scroll wide"><img alt="{text(alt)}" '
        f'src="data:image/png;base64,{source}" /></div>'
        f"<figcaption>{text(caption)}</figcaption></figure>\n"
    )


def table(heading: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table that scrolls where it is wider than the page."""

    def row(tag: str, cells: Iterable[object]) -> str:
        return f"<tr>{''.join(f'<{tag}>{text(cell)}</{tag}>' for cell in cells)}</tr>\n"

    body = "".join(row("td", cells) for cells in rows)
    return (
        f'<div class="scroll"><table><thead>{row("th", heading)}</thead>'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def points(change: float, margin: float) -> str:
    """A change of accuracy, a fraction, in points with half its interval."""
    return f"{100 * change:+.2f} ± {100 * margin:.2f}".replace("-", "−")


def data_uri(image: Image.Image) -> str:
    """The image in a form that stands in the page itself."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def text(value: object) -> str:
    """What a person reads, whatever it holds: no element of HTML, no control character."""
    return html.escape(printable(str(value)))
