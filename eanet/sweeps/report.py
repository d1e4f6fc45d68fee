"""Writes the report of a sweep, from the files of its runs alone.

Into the sweep's directory go `sweep.csv` (one row a run), `sweep.md` and `sweep.tex` (one row a
setting), pictures, and `report.html` with all of it in one file. Works in the middle of a sweep.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from eanet import files
from eanet.cli import Parser, say
from eanet.display import titles
from eanet.display.plot_style import DEFAULT_KINDS, as_files, kinds
from eanet.sweeps import findings, records, tables
from eanet.sweeps.formats import Report, as_html, as_latex, as_markdown
from eanet.sweeps.keys import headings
from eanet.sweeps.pictures import draw_all
from eanet.sweeps.records import RunRecord, SweepRecord
from eanet.sweeps.seeds import write_cards
from eanet.sweeps.statistics import Setting, baseline, best, leaders, settings
from eanet.workdir.tensorboard import write_reported


def write_report(directory: Path, figures: Sequence[str] = DEFAULT_KINDS) -> list[Path]:
    """Writes the report anew, with pictures of these kinds, and returns its files.

    Runs with more seeds than one are told of it in their model cards.

    Raises:
      UserError: the directory is no sweep's, a file of it is damaged, or it cannot be written.
    """
    sweep = records.read_sweep(directory)
    found = settings(sweep)
    report = _report(sweep, found)
    drawn = draw_all(report.title, found, sweep)
    pictures: dict[str, bytes] = {}
    for name, figure in drawn.items():
        pictures |= as_files(name, figure, figures)
    shown = {name: pictures[f"{name}.png"] for name in drawn}
    content = {
        "sweep.csv": tables.as_csv(sweep),
        "sweep.md": as_markdown(report, shown).encode(),
        "sweep.tex": as_latex(report).encode(),
        **pictures,
        "report.html": as_html(report, shown).encode(),
    }
    written = [files.write(directory / name, data) for name, data in content.items()]
    _show_in_tensorboard(directory, found)
    for setting in found:
        write_cards(directory, setting)
    return written


def _show_in_tensorboard(directory: Path, found: Sequence[Setting]) -> None:
    """Writes for the tab HParams what the report says of each run."""
    chosen = best(found)
    for setting in found:
        for run in setting.done:
            if run.best is None:
                continue
            scalars = {"val_accuracy": run.val_accuracy}
            if setting is chosen and run.test.get("accuracy") is not None:
                scalars["test_accuracy"] = run.test["accuracy"]
            try:
                write_reported(directory / run.name, run.best["step"], scalars)
            except OSError as error:
                raise files.cannot_write(directory / run.name, error) from error


def _report(sweep: SweepRecord, found: Sequence[Setting]) -> Report:
    first = leaders(found)
    return Report(
        title=_title(sweep, found),
        facts=[(name, text) for name, text in _facts(sweep) if text],
        table=tables.of_settings(sweep, found, first),
        best=found.index(first[0]) + 1 if len(first) == 1 else 0,
        warnings=findings.warnings(sweep, found, first),
        notes=findings.notes(sweep, found, first),
        runs=tables.of_runs(sweep),
    )


def _title(sweep: SweepRecord, found: Sequence[Setting]) -> str:
    """What was trained on what, for how long, and what was varied."""
    configs = [run.config for run in sweep.runs if run.config]
    if not configs:
        return sweep.name
    models = {titles.of_model(config.model.attention) for config in configs}
    data = {titles.of_data(config.dataset.name) for config in configs}
    lengths = {config.num_epochs for config in configs}
    subject = models.pop() if len(models) == 1 else "Models"
    subject += f" on {data.pop()}" if len(data) == 1 else ""
    subject += f", {lengths.pop():g} epochs" if len(lengths) == 1 else ""
    varied = ", ".join(headings(found[0].values).values()) if found else ""
    if baseline(found):
        varied = f"{len(found) - 1} changes of a baseline"
    return f"{subject}: {varied}" if varied else subject


def _facts(sweep: SweepRecord) -> list[tuple[str, str]]:
    """What it is about, by name; empty where it is not known."""
    begun = [run for run in sweep.runs if run.config]
    states = Counter(run.state for run in sweep.runs)
    results = [run.results for run in sweep.runs]
    commits = [
        f"{each['git_commit']}{', with local changes' if each.get('git_dirty') else ''}"
        for each in results
        if each.get("git_commit")
    ]
    return [
        ("sweep", sweep.name),
        (
            "runs",
            f"{len(sweep.runs)}: {', '.join(f'{n} {name}' for name, n in sorted(states.items()))}",
        ),
        ("data", _alternatives(map(_data, begun))),
        ("epochs", _alternatives(f"{run.num_epochs:g}" for run in begun)),
        ("command", sweep.command),
        ("last started", sweep.date),
        ("commit", _alternatives(commits)),
        ("device", _alternatives(each["device"] for each in results if each.get("device"))),
    ]


def _data(run: RunRecord) -> str:
    assert run.config is not None
    text = titles.of_data(run.config.dataset.name)
    if run.data is None:
        return text
    counts = [
        f"{run.data.splits[split].examples:,} {name}" for split, name in titles.SPLITS.items()
    ]
    return f"{text}, {', '.join(counts)} images"


def _alternatives(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def main(arguments: list[str], prog: str) -> None:
    """The command `report`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("directory", type=Path, help="of the sweep")
    parser.add_argument(
        "--figures",
        type=kinds,
        default=DEFAULT_KINDS,
        metavar="KINDS",
        help="of files of pictures, as in png,svg,pdf; default: png",
    )
    options = parser.parse_args(arguments)
    for path in write_report(options.directory, options.figures):
        say(path)
