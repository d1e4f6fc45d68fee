"""Draws the runs in this directory over the log that Keras published, and prints the table.

python docs/plot_parity.py
"""

import csv
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
RUNS = {"here": "cifar100_50epochs", "here, with the clip of Keras 3": "cifar100_clip"}
COLOURS = ("tab:blue", "tab:red")


def keras_log() -> list[dict[str, float]]:
    """Rows of the published log."""
    with (HERE / "keras_example_log.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def our_log(name: str) -> list[dict[str, float]]:
    """The log of a run in the same form."""
    rows: dict[float, dict[str, float]] = {}
    for line in (HERE / name / "metrics.jsonl").read_text().splitlines():
        record: dict[str, Any] = json.loads(line)
        row = rows.setdefault(record["epoch"], {"epoch": record["epoch"]})
        for metric in ("loss", "accuracy", "top5_accuracy"):
            row[f"{record['split']}_{metric}"] = record[metric]
    return list(rows.values())


def draw(logs: dict[str, list[dict[str, float]]], keras: list[dict[str, float]]) -> None:
    """Loss and accuracy over epochs, Keras dashed."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for axes, metric, scale, label in (
        (panels[0], "loss", 1, "loss (nats, label smoothing 0.1)"),
        (panels[1], "accuracy", 100, "top-1 accuracy (%)"),
    ):
        for rows, name, colour, style in (
            (keras, "Keras' published log", "0.35", "--"),
            *((logs[n], n, c, "-") for n, c in zip(logs, COLOURS, strict=False)),
        ):
            epochs = [row["epoch"] for row in rows]
            for split, width, alpha in (("val", 2.0, 1.0), ("train", 1.0, 0.6)):
                values = [scale * row[f"{split}_{metric}"] for row in rows]
                shown = {"val": "validation", "train": "training"}[split]
                axes.plot(
                    epochs, values, style, color=colour, lw=width, alpha=alpha,
                    label=f"{name}, {shown}",
                )  # fmt: skip
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_xlim(0.5, max(row["epoch"] for rows in logs.values() for row in rows) + 0.5)
        axes.grid(alpha=0.3)
    panels[1].legend(fontsize=8)
    figure.suptitle("EANet of the Keras example on CIFAR-100, seed 0, n = 1")
    figure.savefig(HERE / "parity.png", dpi=110)


def table(rows: list[dict[str, float]], keras: list[dict[str, float]]) -> str:
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
    draw(logs, keras)
    for name, rows in logs.items():
        print(f"{name}\n\n{table(rows, keras)}\n")


if __name__ == "__main__":
    main()
