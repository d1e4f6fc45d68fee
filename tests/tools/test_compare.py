"""`python -m eanet compare`: what it computes, and what it refuses."""

import json
import shutil
import subprocess
import sys
from math import comb

import numpy as np
import pytest
from scipy.stats import bootstrap

from eanet.errors import UserError
from eanet.inference import predictions
from eanet.tools import compare
from eanet.workdir.results import write_results
from tests.inference.conftest import ROOT

SAME = {"examples_fingerprint": "e", "fingerprint": "f", "step": 1}


def make_run(workdir, correct, **results):
    """A run that was evaluated, with this written of it."""
    workdir.mkdir()
    lines = [
        "index,label,prediction,correct",
        *(f"{i},a,b,{int(c)}" for i, c in enumerate(correct)),
    ]
    data = "\n".join(lines).encode()
    results = {"accuracy": np.mean(correct), "num_examples": len(correct)} | SAME | results
    write_results(workdir, "test", results, beside={"predictions.csv": data})
    return workdir


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    one = rng.random(500) < 0.6
    return one, np.where(rng.random(500) < 0.2, ~one, one)


@pytest.fixture
def runs(answers, tmp_path):
    return [make_run(tmp_path / name, each) for name, each in zip("ab", answers, strict=True)]


def test_differences_are_those_of_the_references(answers):
    one, other = answers
    found = compare.difference(other, one)
    paired = other.astype(float) - one
    assert found.mean == pytest.approx(paired.mean())
    assert (
        found.gained - found.lost == paired.sum()
        and found.gained + found.lost == (paired != 0).sum()
    )
    reference = bootstrap((paired,), np.mean, n_resamples=4000, method="percentile", rng=1)
    interval = tuple(reference.confidence_interval)
    assert (found.low, found.high) == pytest.approx(interval, abs=0.004)
    # The exact test in full: all outcomes that are as far from even, or farther.
    n, k = found.gained + found.lost, max(found.gained, found.lost)
    p = min(1.0, 2 * sum(comb(n, i) for i in range(k, n + 1)) / 2**n)
    assert found.p_value == pytest.approx(p)
    back = compare.difference(one, other)
    assert (back.mean, back.gained, back.lost) == (-found.mean, found.lost, found.gained)
    assert compare.difference(one, one) == (0, 0, 0, 0, 0, 1)


@pytest.mark.slow
def test_the_command_shows_a_row_for_each_run(runs):
    done = subprocess.run(
        [sys.executable, "-m", "eanet", "compare", *map(str, runs)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, other = (predictions.read(run, "test").correct for run in runs)
    found = compare.difference(other, one)
    assert f"{100 * one.mean():.2f}" in done.stdout and f"{100 * other.mean():.2f}" in done.stdout
    assert f"{100 * found.mean:+.2f}".replace("-", "−") in done.stdout
    assert "500 images of the test split" in done.stdout and f"2  {runs[1]}" in done.stdout


def damage(path):
    path.write_bytes(path.read_bytes().replace(b",1\n", b",0\n", 1))


def log_accuracies(workdir, *accuracies):
    lines = (
        {"step": step, "epoch": float(step), "split": "val", "loss": 1.0, "accuracy": accuracy}
        for step, accuracy in enumerate(accuracies, 1)
    )
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


REFUSED = {
    "one run": (lambda a, b: [a], "two runs or more"),
    "twice": (lambda a, b: [a, b, a.parent / "x/../a"], "given twice"),
    "no run": (lambda a, b: [a, b / "nothing"], "there is no run in"),
    "not evaluated": (
        lambda a, b: (b / "results_test.json").unlink() or [a, b],
        r"has no results_test.json: python main.py --mode=eval --workdir=\S*b --split=test"),
    "no predictions": (
        lambda a, b: (b / "predictions_test.csv").unlink() or [a, b], "cannot read .*writes it"),
    "damaged": (
        lambda a, b: damage(b / "predictions_test.csv") or [a, b], "not what was written with"),
    "of an older evaluation": (
        lambda a, b: write_results(b, "test", {"num_examples": 500} | SAME) and [a, b],
        "not what was written with"),
    "of a checkpoint that was best": (
        lambda a, b: log_accuracies(b, 0.5, 0.7) or [a, b],
        r"b has results of step 1, and since then another checkpoint is the best: python "),
    "other images": (
        lambda a, b: [a, make_run(a.parent / "c", [True] * 500, examples_fingerprint="o")],
        "other images or labels, or in another order"),
    "fewer images": (
        lambda a, b: [a, make_run(a.parent / "c", [True] * 400)], "400 images instead of 500"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_one_line(case, runs):
    make, told = REFUSED[case]
    with pytest.raises(UserError, match=told) as refused:
        compare.main(list(map(str, make(*runs))), "compare")
    assert "\n" not in str(refused.value)


def test_a_copy_of_a_run_does_not_differ(runs, tmp_path, capsys):
    log_accuracies(runs[0], 0.7, 0.7)
    shutil.copytree(runs[0], tmp_path / "copy")
    compare.main([str(runs[0]), str(tmp_path / "copy")], "compare")
    assert "+0.00 to +0.00" in capsys.readouterr().out


def test_a_probability_below_what_a_float_holds_is_not_zero(tmp_path, capsys):
    right = np.arange(2000) < 1900
    runs = [make_run(tmp_path / "one", right), make_run(tmp_path / "other", ~right)]
    compare.main([*map(str, runs)], "compare")
    assert "< 1e-99" in capsys.readouterr().out
