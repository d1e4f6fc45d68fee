"""An evaluation from end to end: the files that it leaves, and what they say together."""

import csv
import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

import eanet
import train
from eanet import files
from eanet.data.base import Split
from eanet.inference.examples import load_examples
from eanet.inference.report import Report
from eanet.workdir.results import read_results

KINDS = ("predictions.csv", "classes.csv", "confusion.csv", "confusion.png", "calibration.png",
         "mistakes.png")  # fmt: skip


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_end_of_training_leaves_files_that_agree(trained):
    results = read_results(trained, "test")
    assert set(results["files"]) == {kind.replace(".", "_test.") for kind in KINDS}
    for name, digest in results["files"].items():
        assert hashlib.sha256((trained / name).read_bytes()).hexdigest() == digest
        if name.endswith("png"):
            Image.open(trained / name).verify()
    answered = rows(trained / "predictions_test.csv")
    assert [int(row["index"]) for row in answered] == list(range(results["num_examples"]))
    model = eanet.load(trained)
    examples = load_examples(model, "test", log=print).split
    probabilities = model.predict(examples.images)
    names = np.array(model.class_names)
    assert [row["label"] for row in answered] == names[examples.labels].tolist()
    assert [row["prediction"] for row in answered] == names[probabilities.argmax(1)].tolist()
    shown = [float(row["probability"]) for row in answered]
    np.testing.assert_allclose(shown, probabilities.max(1), rtol=1e-4)
    correct = np.array([int(row["correct"]) for row in answered])
    ranks = np.array([int(row["label_rank"]) for row in answered])
    assert correct.mean() == pytest.approx(results["accuracy"], abs=1e-12)
    assert (ranks <= 5).mean() == pytest.approx(results["top5_accuracy"], abs=1e-12)
    likelihood = -np.log([float(row["label_probability"]) for row in answered])
    assert results["nll"] == pytest.approx(likelihood.mean(), rel=1e-5)
    confusion = rows(trained / "confusion_test.csv")
    counts = np.array([[int(row[name]) for name in names] for row in confusion])
    assert counts.trace() == correct.sum() and counts.sum() == len(answered)
    of_classes = [float(row["accuracy"]) for row in rows(trained / "classes_test.csv")]
    assert results["balanced_accuracy"] == pytest.approx(np.mean(of_classes))
    assert 0 < results["ece_at_temperature"] < 1 and results["temperature"] > 0
    card = (trained / "README.md").read_text()
    assert "balanced accuracy" in card and "expected calibration error is" in card


def test_evaluating_again_gives_the_same_and_validation_no_error_after_its_own_fit(
    copy, undrawn, capsys
):
    before = read_results(copy, "test")
    after = train.evaluate(copy, figures=("png", "pdf"))
    drawn = ("curves", "confusion_test", "calibration_test", "mistakes_test")
    assert all((copy / f"{name}.pdf").is_file() for name in drawn)
    for key in ("accuracy", "loss", "nll", "ece", "temperature", "ece_at_temperature"):
        assert after[key] == before[key]
    assert "beside it: predictions_test.csv" in capsys.readouterr().out
    val = train.evaluate(copy, split="val", checkpoint="latest")
    assert "temperature" in val and "ece_at_temperature" not in val
    assert (copy / "predictions_val_latest.csv").exists()


def test_a_run_that_cannot_be_written_shows_its_numbers(copy, undrawn, monkeypatch, capsys):
    def refuse(source, target):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(os, "replace", refuse)
    train.evaluate(copy)
    said = capsys.readouterr().out
    assert "calibration error (ECE)" in said
    for kind in ("results.json", *KINDS):
        assert kind.replace(".", "_test.") in said.split("not recorded:")[1]


def test_logits_that_are_not_finite_are_no_numbers(copy, monkeypatch, capsys):
    def broken(config, *arguments):
        def measure(params, examples, should_stop, logits):
            logits[:] = np.nan
            return {"accuracy": 0.0, "loss": float("nan")}

        return measure

    monkeypatch.setattr("eanet.inference.evaluate.build_evaluate", broken)
    train.evaluate(copy)
    assert "not finite" in capsys.readouterr().out
    recorded = json.loads((copy / "results_test.json").read_text())
    assert recorded["files"] == {} and "ece" not in recorded and recorded["loss"] is None


def black(labels):
    return Split(np.zeros((len(labels), 4, 4, 1), np.uint8), labels)


def test_hostile_names_stay_text():
    names = ("=1+1", "$a_b$\x1b[31m", "x" * 300)
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    labels = np.array([0, 1, 2, 2])
    examples = black(labels)
    report = Report.of(logits, labels, None, fitted_here=False)
    made = report.files("on the test split of \x1b", examples, names, ("png",))
    for kind in ("predictions.csv", "classes.csv", "confusion.csv"):
        assert b"'=1+1" in made[kind] and b"\x1b" not in made[kind]
    assert "temperature" not in report.numbers


def test_nothing_is_wrong_and_a_class_is_missing():
    labels = np.zeros(2, int)
    report = Report.of(np.eye(2, dtype=np.float32)[labels], labels, 0.5, fitted_here=False)
    made = report.files("on the test split", black(labels), ("a", "b"), ("png",))
    assert made["classes.csv"].decode().splitlines() == [
        "class,images,accuracy,precision", "a,2,1.0,1.0", "b,0,,"
    ]  # fmt: skip
    assert made["mistakes.png"].startswith(b"\x89PNG") and report.numbers["balanced_accuracy"] == 1


def test_results_of_before_stay_readable(copy):
    content = read_results(copy, "test")
    kept = ("accuracy", "loss", "top5_accuracy", "num_examples", "step", "split", "checkpoint")
    files.write_record(copy / "results_test.json", {key: content[key] for key in kept})
    assert read_results(copy, "test")["accuracy"] == content["accuracy"]
