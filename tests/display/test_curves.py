import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from eanet.display.curves import plot_curves
from eanet.errors import UserError

BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def records(split, **columns):
    count = len(next(iter(columns.values())))
    return [
        {
            "step": 10 * (index + 1),
            "epoch": float(index + 1),
            "split": split,
            **{name: values[index] for name, values in columns.items()},
        }
        for index in range(count)
    ]


def draw(workdir, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    path = plot_curves(workdir)
    assert path == workdir / "curves.png"
    with Image.open(path) as image:
        assert image.size == (1500, 630)
        return np.asarray(image.convert("RGB"))


def has(picture, colour, columns):
    """Whether a colour stands in a range of columns, given as fractions of the width."""
    start, stop = (int(part * picture.shape[1]) for part in columns)
    return bool((picture[:, start:stop] == colour).all(axis=-1).any())


LOSS_PANEL = (0.05, 0.36)  # without the labels beside it


def test_training_and_validation_are_drawn_in_their_colours(tmp_path):
    train = records("train", loss=[3, 2, 1], accuracy=[0.1, 0.2, 0.3], top5_accuracy=[0.3] * 3)
    val = records("val", loss=[3.5, 2.5, 2], accuracy=[0.1, 0.3, 0.2], top5_accuracy=[0.4] * 3)
    had_global_state = "matplotlib.pyplot" in sys.modules
    picture = draw(tmp_path, train + val)
    assert has(picture, BLUE, LOSS_PANEL) and has(picture, VERMILION, LOSS_PANEL)
    assert ("matplotlib.pyplot" in sys.modules) == had_global_state


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "lines",
    [
        [],
        records("train", loss=[3.0], accuracy=[0.1]),
        records("val", loss=[None] * 3, accuracy=[math.nan] * 3),
        records("train", loss=[1e308, -1e308, 10**40], accuracy=[1e308] * 3),
        records("test", loss=[1.0]),
        records("val", loss=[0.0] * 2, accuracy=[1.0] * 2, top5_accuracy=[1.0] * 2),
        [{"step": 0, "epoch": 0, "split": "val", "accuracy": 0.01}],
    ],
    ids=["empty", "one point", "not finite", "huge", "other split", "flat", "before training"],
)
def test_degenerate_logs_are_drawn(tmp_path, lines):
    workdir = tmp_path / "$a_{b$"  # no formula
    workdir.mkdir()
    draw(workdir, lines)


def test_a_single_point_and_a_point_between_gaps_are_visible(tmp_path):
    lines = records("train", loss=[3.0]) + records("val", loss=[2.5, 2.0, 2.0])
    assert has(draw(tmp_path, lines), BLUE, (0.1, 0.25))
    loss = [None] * 15 + [2.0] + [None] * 24
    assert has(draw(tmp_path, records("train", loss=loss)), BLUE, (0.1, 0.3))


def test_the_test_result_is_drawn_once_it_is_there(tmp_path):
    lines = records("val", loss=[3, 2], accuracy=[0.1, 0.2])
    before = draw(tmp_path, lines)
    results = '{"accuracy": 0.15, "top5_accuracy": null, "step": %d}'
    (tmp_path / "results_test.json").write_text(results % 10)  # of another checkpoint
    assert (draw(tmp_path, lines) == before).all()
    (tmp_path / "results_test.json").write_text(results % 20)
    after = draw(tmp_path, lines)
    different = (before != after).any(axis=(0, 2)).nonzero()[0]
    assert different.min() > 700  # in the panel of accuracy alone
    assert {900, 1000} <= set(different)  # as a line across it


def test_without_a_log_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        plot_curves(tmp_path)
