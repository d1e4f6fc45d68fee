"""The tables of a sweep's report: a row for each setting, and one for each run."""

from collections.abc import Sequence

from eanet.display import spreadsheet
from eanet.display.numbers import epochs, human
from eanet.sweeps.keys import headings, short_names, shown_value
from eanet.sweeps.records import EARLY, SweepRecord
from eanet.sweeps.statistics import Setting, baseline, paired_difference, varied_keys

_NOTHING = {"", "–", "0"}  # cells of a column that is left out


def of_settings(
    sweep: SweepRecord, found: Sequence[Setting], first: Sequence[Setting]
) -> list[list[str]]:
    """A row for each setting, below a heading.

    Differences are to the baseline, beside which a setting is what it changes, or else to the
    `first` of the leaders.
    """
    around = baseline(found)
    keys = headings(found[0].values).values() if found else []
    named = ["setting"] if around else keys
    numbers = {run.name: number for number, run in enumerate(sweep.runs)}
    best = "baseline" if around else "best"
    compared = [f"difference to the {best}, paired"] if len(found) > 1 else []
    measured = ["validation accuracy, %", "n", *compared]
    heading = [*named, *measured, "parameters", "MACs", "latency, ms", *EARLY]
    rows = [["trial", *heading] if sweep.space else heading]
    for setting in found:
        run = setting.runs[0]
        latencies = [each.latency for each in setting.runs if each.latency is not None]
        row = [
            *([setting.name] if around else map(shown_value, setting.values.values())),
            setting.validation.percent(),
            str(setting.validation.count),
            *([_difference(setting, around, first)] if compared else []),
            f"{run.parameters:,}" if run.parameters else "–",
            human(run.multiply_adds) if run.multiply_adds else "–",
            f"{latencies[0]:.2f}" if latencies else "–",
            *(str(sum(run.state == state for run in setting.runs)) for state in EARLY),
        ]
        rows.append([str(numbers[run.name]), *row] if sweep.space else row)
    return _without_empty(rows, keep=len(named) + bool(sweep.space))


def _difference(setting: Setting, around: Setting | None, first: Sequence[Setting]) -> str:
    """To the baseline, or to the `first` of the leaders; which of them it is."""
    if setting is around or not first:
        return "–"
    if around is None and any(setting is each for each in first):
        return "best" if len(first) == 1 else "equally best"
    paired = paired_difference(setting, around or first[0])
    return paired.percent(sign="+") + (f" ({paired.count})" if paired.count else "")


def of_runs(sweep: SweepRecord) -> list[list[str]]:
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


def as_csv(sweep: SweepRecord) -> bytes:
    """`sweep.csv`: a row for each run, whether it has begun or not."""
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


def _without_empty(rows: list[list[str]], keep: int) -> list[list[str]]:
    """The table without columns that say nothing throughout, but for the first to keep."""
    columns = [
        column
        for number, column in enumerate(zip(*rows, strict=True))
        if number < keep or not set(column[1:]) <= _NOTHING
    ]
    return [list(row) for row in zip(*columns, strict=True)]
