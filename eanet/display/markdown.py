"""Markdown in which text from outside stands as text."""

import html
import re
from collections.abc import Iterable, Sequence

from eanet.errors import printable


def escape(text: str) -> str:
    """The text as it reads: no element of HTML, no link, no end of a cell."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(printable(text), quote=False))


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already, with a line end."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
