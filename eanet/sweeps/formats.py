"""The report of a sweep in Markdown, LaTeX and HTML: the same words in each."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from eanet.display import latex, markdown
from eanet.errors import printable

_CAPTIONS = {
    "accuracy": "Validation accuracy by setting; faint points are single runs",
    "searched": "Validation accuracy against each searched value; the ring is the best trial",
    "trials": "Trials in their order, and the best so far",
    "importance": "Share of each searched key in the variance of the validation accuracy (fANOVA)",
    "heat_map": "Mean validation accuracy",
    "pareto": "Accuracy against cost; the settings that none beats in both are joined",
    "curves": "Validation accuracy of all runs",
}
_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; color: #333; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: break-word }
h1 { font-size: 1.5rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e8e8e8 }
.runs td:first-child, .runs td:last-child, .facts th, .facts td { text-align: left }
.facts th { font-weight: normal; color: #666; vertical-align: top }
.facts td { overflow-wrap: anywhere }
.settings td { white-space: nowrap }
.best { font-weight: bold }
.warning { border-left: 4px solid #d55e00; padding-left: .8rem }
figure { margin: 2rem 0 }
img { max-width: 100% }
figcaption { color: #666 }
"""


class Report(NamedTuple):
    """What the report says, whatever it is written in."""

    title: str
    facts: list[tuple[str, str]]  # what the sweep is, by name
    table: list[list[str]]  # a row for each setting, below a heading
    best: int  # row of the table; 0 for none
    warnings: list[str]  # a sentence or two each
    notes: list[str]  # likewise
    runs: list[list[str]]  # a row for each run, below a heading; first is the directory's name


def as_markdown(report: Report, pictures: Iterable[str]) -> str:
    """A text that shows the pictures beside it, by name."""
    escape = markdown.escape
    table = [list(map(escape, row)) for row in report.table]
    if report.best:
        table[report.best] = [f"**{cell}**" for cell in table[report.best]]
    runs = [
        [f"[{escape(name)}]({_link(name)})", *map(escape, cells)]
        for name, *cells in report.runs[1:]
    ]
    sections = [
        f"# {escape(report.title)}",
        "\n".join(f"- {name}: {escape(text)}" for name, text in report.facts),
        markdown.table(table[0], table[1:]).rstrip() if len(table) > 1 else "",
        *(f"> **Warning.** {escape(text)}" for text in report.warnings),
        *map(escape, report.notes),
        *(f"![{_CAPTIONS[name]}]({name}.png)" for name in pictures),
        "## Runs\n\n" + markdown.table(report.runs[0], runs).rstrip() if runs else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def as_latex(report: Report) -> str:
    r"""The table of settings, for `\input`; the comments above it say what it is of."""
    table = [list(map(latex.escape, row)) for row in report.table]
    if report.best:
        table[report.best] = [rf"\textbf{{{cell}}}" for cell in table[report.best]]
    facts = [f"{name}: {text}" for name, text in report.facts]
    comment = [r"Needs \usepackage{booktabs}.", report.title, *facts, *report.warnings]
    return latex.table(table[0], table[1:], [*comment, *report.notes])


def as_html(report: Report, pictures: Mapping[str, bytes]) -> str:
    """A page with the pictures, PNG by name, in it."""
    body = "".join(
        f"<tr{' class=best' if number == report.best else ''}>{_each('td', row)}</tr>\n"
        for number, row in enumerate(report.table[1:], 1)
    )
    facts = "".join(f"<tr>{_each('th', [k])}{_each('td', [v])}</tr>\n" for k, v in report.facts)
    images = "".join(
        f'<figure><img alt="{_CAPTIONS[name]}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"{_each('figcaption', [_CAPTIONS[name]])}</figure>\n"
        for name, data in pictures.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{_each("title", [report.title])}<style>
{_STYLE}</style></head><body>
{_each("h1", [report.title])}
<table class="facts"><tbody>
{facts}</tbody></table>
<h2>Settings</h2>
<table class="settings"><thead><tr>{_each("th", report.table[0])}</tr></thead><tbody>
{body}</tbody></table>
{_each('p class="warning"', report.warnings)}{_each("p", report.notes)}
{images}{_runs(report.runs)}</body></html>
"""


def _runs(rows: Sequence[Sequence[str]]) -> str:
    if len(rows) < 2:
        return ""
    body = "".join(
        f'<tr><td><a href="{_link(name)}">{_text(name)}</a></td>{_each("td", cells)}</tr>\n'
        for name, *cells in rows[1:]
    )
    return f"""<h2>Runs</h2>
<table class="runs"><thead><tr>{_each("th", rows[0])}</tr></thead><tbody>
{body}</tbody></table>
"""


def _each(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{_text(text)}</{tag.split()[0]}>" for text in texts)


def _text(text: str) -> str:
    return html.escape(printable(text))


def _link(name: str) -> str:
    """The directory of a run, seen from the report, as a URL."""
    return f"./{quote(name, safe='=+,', errors='replace')}/"
