"""Draws the runs in this directory over the log that Keras published, and prints the table.

python -m docs.plot_parity
"""

import csv
import json
from pathlib import Path
from typing import Any

from eanet.display import titles
from eanet.display.plot_style import FONT_SIZE, INK, PALETTE, new_figure, saved, style
from eanet.files import write

Row = dict[str, float]

HERE = Path(__file__).parent
RUNS = {"here": "cifar100_50epochs", "here, with the clip of Keras 3": "cifar100_clip"}


def keras_log() -> list[Row]:
    """Rows of the published log."""
    with (HERE / "keras_example_log.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def our_log(name: str) -> list[Row]:
    """The log of a run in the same form."""
    rows: dict[float, Row] = {}
    for line in (HERE / name / "metrics.jsonl").read_text().splitlines():
        record: dict[str, Any] = json.loads(line)
        row = rows.setdefault(record["epoch"], {"epoch": record["epoch"]})
        for metric in ("loss", "accuracy", "top5_accuracy"):
            row[f"{record['split']}_{metric}"] = record[metric]
    return list(rows.values())


def draw(logs: dict[str, list[Row]], keras: list[Row]) -> Any:
    """Loss and accuracy over epochs, Keras dashed; training is thin."""
    figure = new_figure(11, 4.4, "The Keras example on CIFAR-100, seed 0, n = 1, and as published")
    loss, accuracy = figure.subplots(1, 2)
    runs = {"Keras, published": keras, **logs}
    for axes, metric, scale, title in (
        (loss, "loss", 1, "Loss in nats, with label smoothing of 0.1"),
        (accuracy, "accuracy", 100, "Top-1 accuracy, %"),
    ):
        style(axes, title, "epoch")
        for (name, rows), colour in zip(runs.items(), (INK, *PALETTE), strict=False):
            epochs = [row["epoch"] for row in rows]
            for split, width in (("val", 2.0), ("train", 0.9)):
                values = [scale * row[f"{split}_{metric}"] for row in rows]
                line = "--" if rows is keras else "-"
                label = f"{name}, {titles.SPLITS[split]}"
                axes.plot(epochs, values, line, color=colour, linewidth=width, label=label)
        axes.set_xlim(left=0)
    accuracy.legend(fontsize=FONT_SIZE - 1, frameon=False, labelcolor=INK)
    return figure


def table(rows: list[Row], keras: list[Row]) -> str:
    """Both logs as Markdown: the first epochs, then every fifth."""
    lines = [
        "| epoch | | loss, train | top-1, train | loss, validation | top-1, validation | top-5 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for ours, theirs in zip(rows, keras, strict=False):
        if ours["epoch"] > 3 and ours["epoch"] % 5:
            continue
        for name, row, epoch in (("here", ours, f"{ours['epoch']:g}"), ("Keras", theirs, "")):
            percents = ("train_accuracy", "val_accuracy", "val_top5_accuracy")
            train, val, top5 = (f"{100 * row[metric]:.1f} %" for metric in percents)
            losses = (f"{row['train_loss']:.3f}", f"{row['val_loss']:.3f}")
            cells = (epoch, name, losses[0], train, losses[1], val, top5)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Writes parity.png and prints a table for every run."""
    logs = {name: our_log(directory) for name, directory in RUNS.items()}
    keras = keras_log()[: max(len(rows) for rows in logs.values())]
    write(HERE / "parity.png", saved(draw(logs, keras), "png"))
    for name, rows in logs.items():
        print(f"{name}\n\n{table(rows, keras)}\n")


if __name__ == "__main__":
    main()
