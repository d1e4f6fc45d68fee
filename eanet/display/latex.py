"""LaTeX in which text from outside stands as text."""

import re
from collections.abc import Iterable, Sequence

from eanet.errors import printable

_SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line end it would begin a length
    "]": "{]}",
    "*": "{*}",  # there it would forbid the end of a page
    "`": "{`}",
    "'": "{'}",
    "-": "{-}",  # of two there would be a dash
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "{--}",
    "  ": "{ }{ }",  # of several spaces one would be left
}
_ANY = re.compile("|".join(map(re.escape, _SPECIAL)))


def escape(text: str) -> str:
    """The text as it reads: no command, no comment, no end of a cell."""
    return _ANY.sub(lambda match: _SPECIAL[match[0]], printable(text))


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], comment: Iterable[str]) -> str:
    """A `tabular` with the rules of booktabs, below comments; its cells are LaTeX already.

    The first column is set as text, the others as figures.
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    columns = f"l{'r' * (len(heading) - 1)}"
    lines = [
        *(f"% {printable(text)}" for text in comment),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line(heading),
        r"\midrule",
        *map(line, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
