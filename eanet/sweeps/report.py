"""Writes the report of a sweep, from the files of its runs alone.

Into the sweep's directory go `sweep.csv` (one row a run), `sweep.md` and `sweep.tex` (one row a
setting), pictures, and `report.html` with all of it in one file. Works in the middle of a sweep.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from eanet import files
from eanet.cli import Parser, say
from eanet.display import spreadsheet, titles
from eanet.display.numbers import epochs, human
from eanet.display.plot_style import DEFAULT_KINDS, as_files, kinds
from eanet.sweeps import records
from eanet.sweeps.formats import Report, as_html, as_latex, as_markdown
from eanet.sweeps.keys import headings, short_names, shown_value
from eanet.sweeps.pictures import draw_all
from eanet.sweeps.records import EARLY, RunRecord, SweepRecord
from eanet.sweeps.seeds import write_cards
from eanet.sweeps.statistics import (
    Setting,
    best,
    leaders,
    paired_difference,
    settings,
    unsure_by_images,
    unsure_by_seeds,
    varied_keys,
)
from eanet.workdir.tensorboard import write_reported

_NOTHING = {"", "–", "0"}  # cells of a column that is left out
_FEW = 6  # settings in a sentence


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
        "sweep.csv": _csv(sweep),
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
        table=_settings_table(sweep, found, first),
        best=found.index(first[0]) + 1 if len(first) == 1 else 0,
        warnings=_warnings(sweep, found, first),
        notes=_notes(sweep, found, first),
        runs=_runs_table(sweep),
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


def _settings_table(
    sweep: SweepRecord, found: Sequence[Setting], first: Sequence[Setting]
) -> list[list[str]]:
    keys = headings(found[0].values) if found else {}
    numbers = {run.name: number for number, run in enumerate(sweep.runs)}
    compared = ["difference to the best, paired"] if len(found) > 1 else []
    measured = ["validation accuracy, %", "n", *compared]
    heading = [*keys.values(), *measured, "parameters", "MACs", "latency, ms", *EARLY]
    rows = [["trial", *heading] if sweep.space else heading]
    for setting in found:
        run = setting.runs[0]
        difference = "best" if len(first) == 1 else "equally best"
        if first and not any(setting is each for each in first):
            paired = paired_difference(setting, first[0])
            difference = paired.percent(sign="+") + (f" ({paired.count})" if paired.count else "")
        latencies = [each.latency for each in setting.runs if each.latency is not None]
        row = [
            *map(shown_value, setting.values.values()),
            setting.validation.percent(),
            str(setting.validation.count),
            *([difference if first else "–"] if compared else []),
            f"{run.parameters:,}" if run.parameters else "–",
            human(run.multiply_adds) if run.multiply_adds else "–",
            f"{latencies[0]:.2f}" if latencies else "–",
            *(str(sum(run.state == state for run in setting.runs)) for state in EARLY),
        ]
        rows.append([str(numbers[run.name]), *row] if sweep.space else row)
    return _without_empty(rows, keep=len(keys) + bool(sweep.space))


def _runs_table(sweep: SweepRecord) -> list[list[str]]:
    """A row for each run that has begun, below a heading; first is the name of its directory."""
    rows = [["run", "state", "epoch", "validation accuracy, %", "of epoch", "reason"]]
    for run in sweep.runs:
        if run.state != "waiting":
            highest = run.best
            row = [
                run.name,
                run.state,
                epochs(run.step, run.epoch) if run.step else "–",
                f"{100 * highest['accuracy']:.2f}" if highest else "–",
                epochs(highest["step"], highest["epoch"]) if highest else "–",
                run.reason,
            ]
            rows.append(row)
    return _without_empty(rows, keep=1)


def _without_empty(rows: list[list[str]], keep: int) -> list[list[str]]:
    """The table without columns that say nothing throughout, but for the first to keep."""
    columns = [
        column
        for number, column in enumerate(zip(*rows, strict=True))
        if number < keep or not set(column[1:]) <= _NOTHING
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _warnings(sweep: SweepRecord, found: Sequence[Setting], first: Sequence[Setting]) -> list[str]:
    """Why differences in the table may mean nothing."""
    if not first or len(found) < 2:
        return []
    leader, warnings = first[0], []
    if leader.validation.count == 1:
        warnings.append(
            "Every setting has one finished run (n = 1): what another seed would change is not "
            "known, so that no difference here tells settings apart. Several seeds do, as with "
            "seed=0..2."
        )
    elif unsure := unsure_by_seeds(found, leader):
        warnings.append(
            "By their seeds not told apart from the best, as 0 lies in the 95 % interval of the "
            f"paired difference (Student's t): {_named(unsure)}."
        )
    images = min(
        (run.data.splits["val"].examples for run in sweep.runs if run.data is not None), default=0
    )
    if images and (unsure := unsure_by_images(found, leader, images)):
        warnings.append(
            f"Validation has {images:,} images. Other images might order these and the best "
            f"differently (95 % interval of a difference of binomial shares): {_named(unsure)}."
        )
    return warnings


def conclusion(sweep: SweepRecord) -> str:
    """What a sweep says in one sentence or two."""
    found = settings(sweep)
    first = leaders(found)
    if not first:
        return "No run has finished yet."
    so_far = " so far" if any(run.state in ("waiting", "unfinished") for run in sweep.runs) else ""
    lead = f"Best on validation{so_far}, of the settings with most finished runs"
    if len(first) > 1:
        return (
            f"{lead}, are equally: {_named(first)}. None is chosen, and no test accuracy is "
            "reported. Differences are to the first of them."
        )
    test = f"{first[0].test.percent()} % (n = {first[0].test.count})"
    if len(found) == 1:
        return f"Test accuracy of the checkpoints that were best on validation{so_far}: {test}."
    return f"{lead}: {first[0].name}. Only of it the test accuracy is reported: {test}."


def _notes(sweep: SweepRecord, found: Sequence[Setting], first: Sequence[Setting]) -> list[str]:
    notes = [conclusion(sweep)]
    if not first:
        return notes
    notes.append(
        "Validation accuracy is that of each run's best checkpoint, averaged over the n finished "
        "runs; ± is the standard deviation over seeds."
    )
    if len(found) > 1:
        notes[-1] += " The best of many is a little lucky."
        notes.append(
            "A paired difference is over the seeds that finished in both settings, as many as "
            "stand in brackets."
        )
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


def _named(found: Sequence[Setting]) -> str:
    names = [setting.name for setting in found[:_FEW]]
    return "; ".join(names) + (f"; and {len(found) - _FEW} more" if len(found) > _FEW else "")


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
