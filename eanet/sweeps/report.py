"""Writes the report of a sweep, from the files of its runs alone.

Into the sweep's directory go `sweep.csv` (one row a run), `sweep.md` (one row a setting),
pictures, and `report.html` with all of it in one file. Works in the middle of a sweep.
"""

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eanet import files
from eanet.cli import Parser, say
from eanet.display import markdown, spreadsheet
from eanet.display.numbers import human
from eanet.errors import printable
from eanet.sweeps import records
from eanet.sweeps.keys import short_names, shown_value
from eanet.sweeps.pictures import draw_all
from eanet.sweeps.records import EARLY, SweepRecord
from eanet.sweeps.statistics import Setting, best, paired_difference, settings, varied_keys

_CAPTIONS = {
    "accuracy.png": "Validation accuracy by setting; faint points are single runs",
    "heat_map.png": "Mean validation accuracy",
    "pareto.png": "Accuracy against cost; the settings that none beats in both are joined",
    "curves.png": "Validation accuracy of all runs",
}


def write_report(directory: Path) -> list[Path]:
    """Writes the report anew and returns its files.

    Raises:
      UserError: the directory is no sweep's, a file of it is damaged, or it cannot be written.
    """
    sweep = records.read_sweep(directory)
    found = settings(sweep)
    chosen = best(found)
    pictures = draw_all(sweep.name, found)
    states = sorted(Counter(run.state for run in sweep.runs).items())
    text = _Text(
        sweep.name,
        f"{len(sweep.runs)} runs: " + ", ".join(f"{count} {state}" for state, count in states),
        _settings_table(found, chosen),
        next((row for row, setting in enumerate(found, 1) if setting is chosen), 0),
        _notes(sweep, chosen),
        [f"{run.name}: {run.state}: {run.reason}" for run in sweep.runs if run.state in EARLY],
    )
    content = {
        "sweep.csv": _csv(sweep),
        "sweep.md": _markdown(text, pictures).encode(),
        **pictures,
        "report.html": _html(text, pictures).encode(),
    }
    return [files.write(directory / name, data) for name, data in content.items()]


class _Text(NamedTuple):
    """What the report says, whatever it is written in."""

    title: str
    intro: str  # how many runs there are
    table: list[list[str]]  # a row for each setting, below a heading
    best: int  # row of the table; 0 for none
    notes: list[str]  # a sentence each
    failures: list[str]  # a line each


def _settings_table(found: Sequence[Setting], chosen: Setting | None) -> list[list[str]]:
    keys = short_names(found[0].values) if found else {}
    heading = [*keys.values(), "validation accuracy, %", "n", "difference to the best, paired"]
    rows = [[*heading, "parameters", "MACs", "latency, ms", *EARLY]]
    for setting in found:
        run = setting.runs[0]
        difference = "best" if setting is chosen else "–"
        if chosen and setting is not chosen:
            paired = paired_difference(setting, chosen)
            difference = paired.percent(sign="+") + (f" ({paired.count})" if paired.count else "")
        latencies = [each.latency for each in setting.runs if each.latency is not None]
        row = [
            *map(shown_value, setting.values.values()),
            setting.validation.percent(),
            str(setting.validation.count),
            difference,
            f"{run.parameters:,}" if run.parameters else "–",
            human(run.multiply_adds) if run.multiply_adds else "–",
            f"{latencies[0]:.2f}" if latencies else "–",
            *(str(sum(run.state == state for run in setting.runs)) for state in EARLY),
        ]
        rows.append(row)
    return rows


def _notes(sweep: SweepRecord, chosen: Setting | None) -> list[str]:
    if chosen is None:
        return ["No run has finished yet."]
    unfinished = any(run.state in ("waiting", "unfinished") for run in sweep.runs)
    test = f"{chosen.test.percent()} % (n = {chosen.test.count})"
    notes = [
        f"Best on validation{' so far' if unfinished else ''}, of the settings with most finished "
        f"runs: {chosen.name}. Only of it the test accuracy is reported: {test}.",
        "Validation accuracy is that of each run's best checkpoint, averaged over the n finished "
        "runs; ± is the standard deviation over seeds. The best of many is a little lucky.",
        "A paired difference is over the seeds that finished in both settings, as many as stand in "
        "brackets.",
    ]
    other = [run.name for run in sweep.runs if run.results and not run.test]
    if other:
        notes.append(
            f"Left out: the test results of {', '.join(other)}, which are of another checkpoint "
            "than the best; python main.py --mode=eval --workdir=RUN evaluates the best."
        )
    if any(run.latency is not None for run in sweep.runs):
        device = sweep.latency["device"]
        notes.append(f"Latency: median time of one image at a time on {device}.")
    return notes


def _csv(sweep: SweepRecord) -> bytes:
    keys = short_names(dict.fromkeys([*sweep.keys, *varied_keys(sweep)]))
    rows = []
    for run in sweep.runs:
        chosen = run.best or {}
        row = {
            "run": run.name,
            "state": run.state,
            **{short: run.settings.get(key, "") for key, short in keys.items()},
            "epoch": run.epoch,
            "val_accuracy": chosen.get("accuracy"),
            "best_epoch": chosen.get("epoch"),
            "val_loss": chosen.get("loss"),
            "test_accuracy": run.test.get("accuracy"),
            "test_top5_accuracy": run.test.get("top5_accuracy"),
            "parameters": run.parameters,
            "multiply_adds": run.multiply_adds,
            "train_images_per_second": run.images_per_second,
            "latency_ms": run.latency,
            "reason": run.reason,
        }
        rows.append(row)
    return spreadsheet.table(list(rows[0]) if rows else [], (row.values() for row in rows))


def _markdown(text: _Text, pictures: Mapping[str, bytes]) -> str:
    escape = markdown.escape
    table = [list(map(escape, row)) for row in text.table]
    if text.best:
        table[text.best] = [f"**{cell}**" for cell in table[text.best]]
    early = ["Runs that ended early:", "", *(f"- {escape(line)}" for line in text.failures)]
    sections = [
        f"# {escape(text.title)}",
        text.intro,
        markdown.table(table[0], table[1:]).rstrip(),
        *map(escape, text.notes),
        "\n".join(early) if text.failures else "",
        *(f"![{_CAPTIONS[name]}]({name})" for name in pictures),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _html(text: _Text, pictures: Mapping[str, bytes]) -> str:
    def each(tag: str, texts: Sequence[str]) -> str:
        return "".join(f"<{tag}>{html.escape(printable(text))}</{tag}>" for text in texts)

    body = "".join(
        f"<tr{' class=best' if number == text.best else ''}>{each('td', row)}</tr>\n"
        for number, row in enumerate(text.table[1:], 1)
    )
    images = "".join(
        f'<figure><img alt="{_CAPTIONS[name]}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"{each('figcaption', [_CAPTIONS[name]])}</figure>\n"
        for name, data in pictures.items()
    )
    early = f"<h2>Runs that ended early</h2><ul>{each('li', text.failures)}</ul>\n"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{each("title", [text.title])}<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #333; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e8e8e8 }}
.best {{ font-weight: bold }}
figure {{ margin: 2rem 0 }}
img {{ max-width: 100% }}
figcaption {{ color: #666 }}
</style></head><body>
{each("h1", [text.title])}{each("p", [text.intro])}
<table><thead><tr>{each("th", text.table[0])}</tr></thead><tbody>
{body}</tbody></table>
{each("p", text.notes)}
{early if text.failures else ""}{images}</body></html>
"""


def main(arguments: list[str], prog: str) -> None:
    """The command `report`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("directory", type=Path, help="of the sweep")
    for path in write_report(parser.parse_args(arguments).directory):
        say(path)
