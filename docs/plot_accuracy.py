"""Draws the recorded runs among published networks, and prints the tables of docs/accuracy.md.

python -m docs.plot_accuracy
"""

import csv
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eanet.display import plot_style

HERE = Path(__file__).parent
# Records of runs by what they are called, one directory a seed.
RUNS = {
    "Keras example, here": ["cifar100_50epochs"],
    "fast": [f"cifar100_fast/seed{seed}" for seed in range(3)],
    "fast, AdamW": [f"cifar100_fast_adamw/seed{seed}" for seed in range(3)],
    "pure": ["cifar100_pure/seed0"],
    "best": ["cifar100_best/seed0"],
}


@dataclass(frozen=True)
class Record:
    """What a run left: the results on test, its settings, and its validation over time."""

    results: dict[str, Any]
    config: dict[str, Any]
    minutes: list[float]  # of training alone, at the end of each epoch
    validation: list[float]  # top-1, %, then

    @classmethod
    def read(cls, directory: Path) -> "Record":
        """Reads a directory of `docs`."""
        results, config = (
            json.loads((directory / f"{name}.json").read_text())
            for name in ("results_test", "config")
        )
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").open()]
        step, seconds, minutes, validation = 0, 0.0, [], []
        for line in lines:
            if line["split"] == "train":
                images = (line["step"] - step) * config["batch_size"]
                seconds += images / line["images_per_second"]
                step = line["step"]
            elif line["split"] == "val":
                minutes.append(seconds / 60)
                validation.append(100 * line["accuracy"])
        return cls(results, config, minutes, validation)


def read_anchors() -> list[dict[str, str]]:
    """Published networks, trained on CIFAR-100 from scratch."""
    with (HERE / "accuracy/anchors.csv").open() as file:
        return list(csv.DictReader(file))


def mean_and_deviation(values: Sequence[float]) -> str:
    """As `51.4 ± 0.3`, without a deviation for one value."""
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def fastest(records: Sequence[Record]) -> Record:
    """That of the run which took the least time: what else a machine does costs time only."""
    return min(records, key=lambda record: record.minutes[-1])


def cpu_minutes(results: Sequence[dict[str, Any]]) -> str:
    """The least of a whole run, where one was recorded that was not stopped."""
    recorded = [result["cpu_seconds"] / 60 for result in results if "cpu_seconds" in result]
    return f"{min(recorded):.1f}" if recorded else ""


def table(runs: dict[str, list[Record]], anchors: list[dict[str, str]]) -> str:
    """All of them as Markdown, ours first."""
    lines = [
        "| network | parameters | MACs | epochs | n | top-1, % | top-5, % | minutes | CPU minutes "
        "| commit |",
        f"|{' --- |' * 10}",
    ]
    for name, records in runs.items():
        results = [record.results for record in records]
        cells = [
            f"**{name}**",
            f"{results[0]['parameters'] / 1e6:.2f} M",
            f"{results[0]['multiply_adds_per_image'] / 1e6:.0f} M",
            f"{records[0].config['num_epochs']:g}",
            str(len(records)),
            *(
                mean_and_deviation([100 * result[key] for result in results])
                for key in ("accuracy", "top5_accuracy")
            ),
            f"{fastest(records).minutes[-1]:.1f}",
            cpu_minutes(results),
            ", ".join(sorted({result["git_commit"][:7] for result in results})),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for anchor in anchors:
        where = f"[{anchor['model']}]({anchor['source']})"
        size, macs = f"{anchor['parameters_millions']} M", f"{anchor['macs_millions']} M"
        cells = [where, size, macs, anchor["epochs"], "", anchor["top1"], "", "", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_macs(runs: dict[str, list[Record]], anchors: list[dict[str, str]]) -> Any:
    """Accuracy on test over the work for an image, published networks in grey."""
    figure = plot_style.new_figure(7.5, 4.6, "CIFAR-100 from scratch: accuracy against work")
    axes = figure.subplots()
    for anchor in anchors:
        place = float(anchor["macs_millions"]), float(anchor["top1"])
        axes.plot(*place, "o", color=plot_style.FAINT, markersize=5)
        where = {"Keras example": "below", "CCT-4/3×2": "above"}.get(anchor["model"], "beside")
        _name(axes, place, f"{anchor['model']} ({anchor['epochs']})", plot_style.FAINT, where)
    for (name, records), colour in zip(runs.items(), plot_style.PALETTE, strict=False):
        accuracies = [100 * record.results["accuracy"] for record in records]
        place = records[0].results["multiply_adds_per_image"] / 1e6, statistics.fmean(accuracies)
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else 0
        axes.errorbar(*place, yerr=deviation, fmt="o", color=colour, markersize=7)
        epochs = records[0].config["num_epochs"]
        where = "before" if name == "best" else "beside"
        _name(axes, place, f"{name} ({epochs:g}), n = {len(records)}", colour, where)
    axes.set_xscale("log")
    axes.set_xlim(8, 2500)
    axes.set_xticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1000"])
    axes.minorticks_off()
    title = "top-1 on test, %; epochs in brackets"
    plot_style.style(axes, title, "millions of multiply-adds an image")
    return figure


def _name(
    axes: Any, place: tuple[float, float], text: str, colour: str, where: str = "beside"
) -> None:
    offset = {"beside": (7, 0), "before": (-7, 0), "above": (-7, 9), "below": (7, -8)}[where]
    look = {"size": plot_style.FONT_SIZE - 1, "color": colour, "va": "center"}
    look["ha"] = "right" if where == "before" else "left"
    axes.annotate(text, place, xytext=offset, textcoords="offset points", **look)


def draw_time(runs: dict[str, list[Record]], published: float) -> Any:
    """Validation over the minutes of training, of the fastest run of each network."""
    figure = plot_style.new_figure(7.5, 4.2, "CIFAR-100: accuracy against time on two CPU cores")
    axes = figure.subplots()
    labels = []
    for (name, records), colour in zip(runs.items(), plot_style.PALETTE, strict=False):
        record = fastest(records)
        axes.plot(record.minutes, record.validation, "-", color=colour, linewidth=1.5)
        labels += plot_style.label(axes, record.validation[-1], name, colour)
    axes.axhline(published, color=plot_style.FAINT, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    ticks = [1, 3, 10, 30, 100, 300]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    title = f"top-1 on validation, %; dashed: {published} % on test, published by Keras"
    plot_style.style(axes, title, "minutes of training")
    axes.set_ylim(bottom=0)
    plot_style.spread(axes, labels)
    return figure


def main() -> None:
    """Writes the pictures into docs/accuracy and prints the table."""
    runs = {name: [Record.read(HERE / one) for one in where] for name, where in RUNS.items()}
    anchors = read_anchors()
    for name, figure in (
        ("macs", draw_macs(runs, anchors)),
        ("time", draw_time(runs, float(anchors[0]["top1"]))),
    ):
        (HERE / f"accuracy/{name}.png").write_bytes(plot_style.saved(figure, "png"))
    print(table(runs, anchors))


if __name__ == "__main__":
    main()
