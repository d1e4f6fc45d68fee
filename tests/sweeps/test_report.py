import csv
import datetime
import io
import json
import math
import random
import re

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eanet import config as config_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.display.numbers import summary
from eanet.display.plot_style import new_figure
from eanet.errors import UserError
from eanet.sweeps import findings, records, report, spec
from eanet.sweeps.importance import importances
from eanet.sweeps.pictures import draw_all
from eanet.sweeps.records import model_key
from eanet.sweeps.statistics import best, paired_difference, pareto_front, settings
from eanet.workdir import model_record
from eanet.workdir.model_record import DataRecord, ModelRecord, SplitRecord
from eanet.workdir.tensorboard import write_hparams
from tests.helpers import event_files

TEXTS = {"sweep.csv", "sweep.md", "sweep.tex", "report.html"}
PICTURES = ("accuracy.png", "heat_map.png", "pareto.png", "curves.png")
KEYS = ("model.memory_size", "model.embed_dim", "seed")


def base():
    from configs import testing

    config = testing.get_config()
    config.num_epochs = 3.0
    return config


def make(directory, overrides, accuracies, keys=KEYS):
    """A sweep whose runs end with these accuracies; None has not begun, a text went wrong."""
    directory.mkdir(exist_ok=True)
    planned = []
    for number, (values, accuracy) in enumerate(zip(overrides, accuracies, strict=True)):
        name, config = f"run{number}", config_lib.override(base(), values)
        planned.append({"name": name, "settings": values, "parameters": 10 * (number + 1),
                        "multiply_adds": 1000 * (number + 1)})  # fmt: skip
        if accuracy is None:
            continue
        workdir = directory / name
        workdir.mkdir(exist_ok=True)
        (workdir / "config.json").write_bytes(config_lib.to_json(config))
        if isinstance(accuracy, str):
            records.write_ended(workdir, "failed", accuracy)
            continue
        lines = [
            {"step": step, "epoch": float(step), "split": "val", "loss": 1.0,
             "accuracy": accuracy * (1.0 if step == 2 else 0.5)}
            for step in (1, 2, 3)
        ]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (workdir / "metrics.jsonl").write_text(text)
        results = {"accuracy": max(0.0, accuracy - 0.1), "top5_accuracy": 0.9, "step": 2}
        (workdir / "results_test.json").write_text(json.dumps(results))
    records.write_sweep(directory, keys, planned)


def grid(memory=(4, 8, 16), width=(32, 64), seeds=(0, 1)):
    return [
        {"model.memory_size": S, "model.embed_dim": d, "seed": seed}
        for S in memory
        for d in width
        for seed in seeds
    ]


def settings_rows(directory):
    """The cells of the first table of `sweep.md`, its heading first."""
    table = (directory / "sweep.md").read_text().split("\n\n| ")[1].split("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


def describe(directory, val):
    """Records of each run that has begun that validation has so many images."""
    splits = {name: SplitRecord(n, "f") for name, n in (("train", 900), ("val", val), ("test", 50))}
    data = DataRecord("digits", None, splits)
    record = ModelRecord(("a", "b"), (8, 8, 1), (0.0,), (1.0,), data)
    for path in directory.glob("*/config.json"):
        model_record.write(path.parent, record)


def rows(directory):
    return list(csv.DictReader(io.StringIO((directory / "sweep.csv").read_text())))


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take the most time of a report."""
    monkeypatch.setattr(report, "draw_all", lambda *_: {})


@pytest.fixture(scope="module")
def half_way(tmp_path_factory):
    """A sweep in the middle: one setting failed once, one waits; S 8 with d 64 leads."""
    directory = tmp_path_factory.mktemp("sweeps") / "half_way"
    accuracies = [0.5, 0.52, 0.55, "out of | memory", 0.6, 0.62, 0.7, 0.72, 0.61, 0.6, None, None]
    make(directory, grid(), accuracies)
    written = report.write_report(directory)
    assert {path.name for path in written} == TEXTS | set(PICTURES)
    return directory


def test_the_table_of_runs_has_a_row_for_each(half_way):
    table = rows(half_way)
    assert [row["run"] for row in table] == [f"run{number}" for number in range(12)]
    assert [row["state"] for row in table].count("done") == 9
    assert table[6] == {
        "run": "run6", "state": "done", "memory_size": "8", "embed_dim": "64", "seed": "0",
        "epoch": "3.0", "val_accuracy": "0.7", "best_epoch": "2.0", "val_loss": "1.0",
        "test_accuracy": str(0.7 - 0.1), "test_top5_accuracy": "0.9", "parameters": "70",
        "multiply_adds": "7000", "train_images_per_second": "", "latency_ms": "", "reason": "",
    }  # fmt: skip
    assert (table[3]["state"], table[3]["reason"]) == ("failed", "out of | memory")
    assert (table[11]["state"], table[11]["memory_size"]) == ("waiting", "16")


def test_the_table_of_settings_has_means_and_the_best(half_way):
    text = (half_way / "sweep.md").read_text()
    assert "- runs: 12: 9 done, 1 failed, 2 waiting\n" in text
    lines = settings_rows(half_way)
    assert len({len(line) for line in lines}) == 1 and len(lines) == 2 + 6
    assert lines[0][:2] == ["memory units S", "token width d"] and lines[0][-1] == "failed"
    assert lines[2][:5] == ["4", "32", "51.00 ± 1.41", "2", "−20.00 ± 0.00 (2)"]
    assert lines[3][:5] == ["4", "64", "55.00", "1", "−15.00 (1)"] and lines[3][-1] == "1"
    assert lines[5][:5] == ["**8**", "**64**", "**71.00 ± 1.41**", "**2**", "**best**"]
    assert lines[7][2:5] == ["–", "0", "–"]
    assert (
        "Best on validation so far, of the settings with most finished runs: S = 8, d = 64." in text
    )
    assert "61.00 ± 1.41 % (n = 2)" in text
    assert "51.00 % (n" not in text  # no other test accuracy
    assert r"| [run3](./run3/) | failed | – | – | – | out of \| memory |" in text
    assert "run10" not in text  # it has not begun
    assert all(f"]({name})" in text for name in PICTURES)


def test_the_card_of_a_run_says_what_its_seeds_came_to(half_way):
    for name, said in (("run0", "41.00 ± 1.41 %"), ("run6", "61.00 ± 1.41 %")):
        card = (half_way / name / "README.md").read_text()
        assert "### Over 2 seeds" in card and f"| {said} | 2 |" in card
    assert not (half_way / "run2/README.md").exists()  # whose other seed failed


def test_a_sweep_over_seeds_alone_has_nothing_to_compare(tmp_path):
    make(tmp_path, [{"seed": seed} for seed in (3, 4, 5)], [0.5, 0.6, 0.7], ("seed",))
    report.write_report(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    assert "| **60.00 ± 10.00** | **3** |" in text and "paired" not in text
    assert "that were best on validation: 50.00 ± 10.00 % (n = 3)." in text
    assert findings.conclusion(records.read_sweep(tmp_path)) in text


def test_the_page_is_complete_in_itself(half_way):
    page = (half_way / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=\"(?!data:|\./run\d/\")", page) and "<script" not in page
    assert page.count('<a href="./run') == 10 and page.count("<tr class=best>") == 1
    assert '<meta name="viewport" content="width=device-width' in page


def test_it_says_what_was_done(tmp_path, no_pictures):
    make(tmp_path, grid(memory=(4, 8), width=(32,)), [0.5, 0.6, 0.7, None])
    describe(tmp_path, val=144)
    for name, commit in (("run0", "abc"), ("run1", "def")):
        path = tmp_path / name / "results_test.json"
        more = {"git_commit": commit, "git_dirty": name == "run1", "device": "1 × abacus"}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    planned = json.loads((tmp_path / "sweep.json").read_text())["runs"]
    records.write_sweep(tmp_path, KEYS, planned, command="python main.py --mode=sweep")
    report.write_report(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    assert text.startswith("# EANet on scikit-learn's digits, 3 epochs: memory units S\n")
    for line in (
        "data: scikit-learn's digits, 900 training, 144 validation, 50 test images",
        "epochs: 3",
        "command: python main.py --mode=sweep",
        f"last started: {datetime.date.today()}",
        "commit: abc; def, with local changes",
        "device: 1 × abacus",
    ):
        assert f"- {line}\n" in text


def test_tensorboard_shows_the_numbers_of_the_report(tmp_path, no_pictures):
    make(tmp_path, grid(memory=(4, 8), width=(32,)), [0.5, 0.6, 0.7, 0.9])
    for path in tmp_path.glob("*/config.json"):
        write_hparams(path.parent, {"seed": 0})
    report.write_report(tmp_path)
    for run in rows(tmp_path):
        (events,) = (tmp_path / run["run"] / "tensorboard/report").iterdir()
        shown = {"val_accuracy": float(run["val_accuracy"])}
        if run["memory_size"] == "8":  # the chosen one
            shown["test_accuracy"] = float(run["test_accuracy"])
        found = {value.tag: value.simple_value for value in event_files.values(events)}
        assert found == pytest.approx(shown)


def test_of_equals_none_is_chosen(tmp_path, no_pictures):
    make(tmp_path, grid(memory=(4, 8, 16), width=(32,)), [0.5, 0.7, 0.4, 0.3, 0.7, 0.5])
    report.write_report(tmp_path)
    lines, text = settings_rows(tmp_path), (tmp_path / "sweep.md").read_text()
    assert [line[3] for line in lines[2:]] == [
        "equally best", "−25.00 ± 21.21 (2)", "equally best"
    ]  # fmt: skip
    assert "**S" not in text and "equally: S = 4; S = 16. None is chosen" in text
    assert "50.00" not in text.split("## Runs")[0]  # no test accuracy
    assert "class=best" not in (tmp_path / "report.html").read_text()


AROUND = [
    {"model.memory_size": 8, "model.final_norm": True, "optimizer.name": "adamw"} | change
    for change in (
        {}, {"model.memory_size": 4}, {"model.final_norm": False}, {"optimizer.name": "muon"}
    )
]  # fmt: skip


def test_beside_a_baseline_a_setting_is_what_it_changes(tmp_path, no_pictures):
    runs = [values | {"seed": seed} for values in AROUND for seed in (0, 1)]
    make(tmp_path, runs, [0.50, 0.52, 0.40, 0.42, 0.60, 0.61, 0.49, 0.55], tuple(runs[0]))
    describe(tmp_path, 10**9)
    report.write_report(tmp_path)
    lines, text = settings_rows(tmp_path), (tmp_path / "sweep.md").read_text()
    assert [line[:4] for line in lines] == [
        ["setting", "validation accuracy, %", "n", "difference to the baseline, paired"],
        ["---"] * 4,
        ["baseline", "51.00 ± 1.41", "2", "–"],
        ["S = 4", "41.00 ± 1.41", "2", "−10.00 ± 0.00 (2)"],
        ["**final norm = False**", "**60.50 ± 0.71**", "**2**", "**+9.50 ± 0.71 (2)**"],
        ["optimizer = muon", "52.00 ± 4.24", "2", "+1.00 ± 2.83 (2)"],
    ]
    assert "3 epochs: 3 changes of a baseline\n" in text
    assert re.search(r"not told apart from the baseline.*\): optimizer = muon\.\n", text)
    assert (
        "Best on validation, of the settings with most finished runs: final norm = False." in text
    )
    # Of 2,000 images the 95 % interval is ± 3.1 points, either way.
    describe(tmp_path, 2000)
    report.write_report(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    assert re.search(r"2,000 images.* and the baseline differently.*\): optimizer = muon\.\n", text)


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (AROUND, [(), ("model.memory_size",), ("model.final_norm",), ("optimizer.name",)]),
        (grid(), None),
        (grid(width=(32,)), None),
        ([*AROUND[:2], AROUND[1] | {"model.final_norm": False}, AROUND[3]], None),
        (AROUND[1:3], None),
    ],
    ids=["one at a time", "grid", "axis", "overlapping", "two"],
)  # fmt: skip
def test_only_one_that_all_others_change_in_a_respect_of_their_own_is_a_baseline(
    tmp_path, overrides, expected
):
    make(tmp_path, overrides, [0.5] * len(overrides), tuple(overrides[0]))
    changed = [setting.changed for setting in settings(records.read_sweep(tmp_path))]
    assert changed == (expected or [None] * len(changed))


def test_chains_through_one_setting_have_it_as_their_baseline(tmp_path):
    default = {"model.memory_size": 8, "model.num_heads": 4, "model.head_dim": 8}
    memory = [default | {"model.memory_size": size} for size in (4, 8, 16)]
    heads = [
        default | {"model.num_heads": 32 // width, "model.head_dim": width} for width in (16, 4)
    ]
    make(tmp_path, [*memory, *heads], [0.5] * 5, tuple(default))
    assert [setting.name for setting in settings(records.read_sweep(tmp_path))] == [
        "S = 4", "baseline", "S = 16", "heads = 2, head width = 16", "heads = 8, head width = 4"
    ]  # fmt: skip


def test_columns_that_say_nothing_are_left_out(tmp_path, no_pictures):
    make(tmp_path, grid(memory=(4, 8), width=(32,)), [0.5, 0.6, 0.4, 0.3])
    report.write_report(tmp_path)
    assert settings_rows(tmp_path)[0] == [
        "memory units S", "validation accuracy, %", "n", "difference to the best, paired",
        "parameters", "MACs",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "accuracies, val, warned",
    [
        # S = 4 leads; the differences are 5 ± 0.1, and one of 1 and 19 points.
        ([0.600, 0.602, 0.550, 0.551, 0.590, 0.412], 10**9, [r"seeds.*: S = 16\.$"]),
        # The 95 % interval of 60 against 55 of 100 is ± 13.7 points, of 10,000 it is ± 1.4.
        ([0.600, 0.602, 0.550, 0.551, 0.400, 0.402], 100, [r"100 images.*: S = 8\.$"]),
        ([0.600, 0.602, 0.550, 0.551, 0.400, 0.402], 10_000, []),
        ([0.600, None, 0.550, None, 0.400, None], 10_000, [r"n = 1"]),
    ],
)
def test_it_warns_of_what_cannot_be_told_apart(tmp_path, no_pictures, accuracies, val, warned):
    make(tmp_path, grid(memory=(4, 8, 16), width=(32,)), accuracies)
    describe(tmp_path, val)
    report.write_report(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    found = re.findall(r"^> \*\*Warning\.\*\* (.*)$", text, re.M)
    assert len(found) == len(warned)
    assert all(re.search(wanted, line) for wanted, line in zip(warned, found, strict=True))
    assert (tmp_path / "report.html").read_text().count('<p class="warning">') == len(found)


def test_the_margin_is_that_of_tables():
    assert summary([1.0, 2.0, 3.0]).margin == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert math.isnan(summary([1.0]).margin)


LONG = (
    {"model.attention": "none", "optimizer.name": "adamw", "optimizer.schedule": "constant"},
    {"model.attention": "external", "optimizer.name": "muon", "optimizer.schedule": "cosine"},
)


@pytest.mark.parametrize("costs", [[1000, 1001], [1000, 2000], [1000, 1000], [10, 1000]])
@pytest.mark.parametrize("values", [({"model.memory_size": 4}, {"model.memory_size": 8}), LONG])
def test_a_name_beside_a_point_lies_within_the_axes(tmp_path, costs, values):
    make(tmp_path, values, [0.6, 0.7], tuple(values[0]))
    path = tmp_path / "sweep.json"
    planned = json.loads(path.read_text())["runs"]
    for run, cost in zip(planned, costs, strict=True):
        run["multiply_adds"] = cost
    records.write_sweep(tmp_path, tuple(values[0]), planned)
    sweep = records.read_sweep(tmp_path)
    figure = draw_all("a title", settings(sweep), sweep)["pareto"]
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert boxes and all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_pictures_for_papers_are_written_when_asked_for(tmp_path, capsys):
    make(tmp_path, grid(memory=(4, 8), width=(32,), seeds=(0,)), [0.5, 0.6])
    report.main([str(tmp_path), "--figures=pdf,svg"], "eanet report")
    assert str(tmp_path / "curves.pdf") in capsys.readouterr().out.split()
    for name in ("accuracy", "pareto", "curves"):
        pdf = (tmp_path / f"{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf and b"CreationDate" not in pdf
        assert "</svg>" in (tmp_path / f"{name}.svg").read_text()
        assert (tmp_path / f"{name}.png").is_file()
    with pytest.raises(UserError, match="'tiff' is none of png, svg, pdf"):
        report.main([str(tmp_path), "--figures=tiff"], "eanet report")


SPACE = {
    "model.memory_size": spec.OneOf(4, 16, 64),
    "optimizer.learning_rate": spec.Between(1e-4, 1e-2, log=True),
    "model.depth": spec.Between(1, 4),
}


def make_search(directory, trials=16):
    """A search in which the learning rate alone counts; trial 3 was stopped early."""
    draw = random.Random(0)
    overrides = [
        {"model.memory_size": draw.choice((4, 16, 64)), "model.depth": draw.randint(1, 4),
         "optimizer.learning_rate": 10 ** draw.uniform(-4, -2)}
        for _ in range(trials)
    ]  # fmt: skip
    accuracies = [1 + 0.2 * math.log10(each["optimizer.learning_rate"]) for each in overrides]
    make(directory, overrides, accuracies, tuple(SPACE))
    overrides[2]["model.depth"] = 7  # outside of the space
    path = directory / "run2/config.json"
    path.write_bytes(config_lib.to_json(config_lib.override(base(), overrides[2])))
    (directory / "run3/results_test.json").unlink()
    records.write_ended(directory / "run3", "pruned", "stopped at epoch 2")
    planned = json.loads((directory / "sweep.json").read_text())["runs"]
    records.write_sweep(directory, tuple(SPACE), planned, space=SPACE)


def test_a_search_shows_its_trials_and_what_mattered(tmp_path):
    make_search(tmp_path)
    names = {path.name for path in report.write_report(tmp_path)}
    drawn = {"searched.png", "trials.png", "importance.png", "pareto.png", "curves.png"}
    assert names == TEXTS | drawn
    sweep = records.read_sweep(tmp_path)
    assert sweep.space == SPACE
    shares = importances(sweep)
    assert set(shares) == set(SPACE) and math.isclose(sum(shares.values()), 1)
    assert shares["optimizer.learning_rate"] > 0.8
    lines = settings_rows(tmp_path)
    assert lines[0][:4] == ["trial", "memory units S", "learning rate", "depth"]
    assert [line[0].strip("*") for line in lines[2:]] == [str(n) for n in range(16)]


def test_models_and_data_that_differ_are_not_in_the_title(tmp_path, no_pictures):
    overrides = [{"model.attention": name} for name in ("external", "self")]
    make(tmp_path, overrides, [0.5, 0.6], ("model.attention",))
    report.write_report(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    assert text.startswith("# Models on scikit-learn's digits, 3 epochs: attention\n")


def test_of_few_trials_no_importance_is_drawn(tmp_path):
    make_search(tmp_path, trials=4)
    assert "importance.png" not in {path.name for path in report.write_report(tmp_path)}


def test_the_pictures_are_drawn(half_way):
    for name in PICTURES:
        with Image.open(half_way / name) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1_000_000)) > 20


def test_the_bars_of_several_lines_stand_side_by_side(half_way):
    sweep = records.read_sweep(half_way)
    figure = draw_all("a title", settings(sweep), sweep)["accuracy"]
    figure.draw_without_rendering()
    (axes,) = figure.axes
    bars = [
        bar.get_transform().transform(segment)[0, 0]
        for bar in axes.collections
        for segment in bar.get_segments()
    ]
    assert len(bars) == 5 and np.diff(np.sort(bars)).min() > 8  # pixels
    marks = [axes.transData.transform((value, 0))[0] for value in axes.get_xticks()]
    assert all(min(abs(bar - mark) for mark in marks) < 8 for bar in bars)


@pytest.mark.parametrize(
    "lines",
    [
        ["EANet on digits, 10 epochs:", "units S, width d"],
        ["Validation accuracy", "of all of the runs"],  # no sign fits, so about equally long
        ["word"],
    ],
)
def test_a_title_is_broken_where_it_has_a_sign(lines):
    title = new_figure(0.09 * (1 + max(map(len, lines))), 1, " ".join(lines)).get_suptitle()
    assert title.splitlines() == lines


def test_a_report_is_written_anew_when_there_is_more(tmp_path, no_pictures):
    overrides = grid(memory=(4, 8), width=(32,))
    make(tmp_path, overrides, [None] * 4)
    assert {path.name for path in report.write_report(tmp_path)} == TEXTS
    assert "No run has finished yet." in (tmp_path / "sweep.md").read_text()
    make(tmp_path, overrides, [0.5, 0.6, 0.4, 0.3])
    report.write_report(tmp_path)
    text = (tmp_path / "sweep.md").read_text()
    assert "Best on validation, of the settings with most finished runs: S = 4." in text
    # What went wrong and then right is right.
    records.write_ended(tmp_path / "run0", "failed", "x")
    report.write_report(tmp_path)
    assert {row["state"] for row in rows(tmp_path)} == {"done"}


def test_latencies_are_taken_up(tmp_path, no_pictures):
    overrides = grid(memory=(4, 8), width=(32,), seeds=(0,))
    make(tmp_path, overrides, [0.5, 0.6])
    keys = [model_key(config_lib.override(base(), each)) for each in overrides]
    latency = {"device": "1 × abacus", "models": {keys[0]: 1.25}}
    (tmp_path / "latency.json").write_text(json.dumps(latency))
    report.write_report(tmp_path)
    assert [row["latency_ms"] for row in rows(tmp_path)] == ["1.25", ""]
    assert "1 × abacus" in (tmp_path / "sweep.md").read_text()
    assert model_key(base()) == model_key(
        config_lib.override(base(), {"seed": 9, "model.dropout_rate": 0.5})
    )


MANY = {
    f"augment.{key}": 0.5
    for key in ("rotation", "contrast", "zoom", "random_erasing", "mixup", "cutmix",
                "mix_probability")
} | {"label_smoothing": 0.5, "model.dropout_rate": 0.5, "optimizer.learning_rate": 0.5,
     "optimizer.weight_decay": 0.5, "optimizer.momentum": 0.5}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ([{"model.norm": norm, "seed": 0} for norm in ("double", "softmax_memory")],
         ("model.norm", "seed")),
        ([{"seed": seed} for seed in range(5)], ("seed",)),
        ([{"model.memory_size": 2**n} for n in range(1, 14)], ("model.memory_size",)),
        ([{"optimizer.learning_rate": 1e-4 * 1.3**n, "model.depth": n} for n in range(1, 31)],
         ("optimizer.learning_rate", "model.depth")),
        ([{"model.final_norm": n > 4, "model.embed_dim": 8 * n} for n in range(1, 10)],
         ("model.final_norm", "model.embed_dim")),
        (AROUND, tuple(AROUND[0])),
        ([{key: value - n * 1e-3 for key, value in MANY.items()} for n in range(3)], tuple(MANY)),
    ],
    ids=["names", "seeds alone", "many sizes", "a search", "a switch", "a baseline", "long names"],
)  # fmt: skip
def test_other_sweeps_are_drawn_too(tmp_path, overrides, keys):
    accuracies = [0.3 + 0.01 * (n % 7) for n in range(len(overrides))]
    make(tmp_path, overrides, [*accuracies[:-1], math.nan], keys)
    names = {path.name for path in report.write_report(tmp_path)}
    assert {"accuracy.png", "pareto.png", "curves.png"} <= names


def test_costs_that_nobody_knows_are_not_drawn(tmp_path):
    make(tmp_path, grid(), [0.5] * 12)
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    planned = [{k: run[k] for k in ("name", "settings")} for run in sweep["runs"]]
    records.write_sweep(tmp_path, KEYS, planned)
    names = {path.name for path in report.write_report(tmp_path)}
    assert "accuracy.png" in names and "pareto.png" not in names


def test_no_directory_of_a_sweep_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"there is no sweep\.json in "):
        report.main([str(tmp_path)], "eanet report")
    (tmp_path / "sweep.json").write_text('{"keys": 3}')
    with pytest.raises(UserError, match="is damaged"):
        report.write_report(tmp_path)


def test_best_needs_as_many_seeds_as_the_others(tmp_path):
    make(tmp_path, grid(memory=(4, 8), width=(32,)), [0.5, 0.6, 0.9, "diverged"])
    found = settings(records.read_sweep(tmp_path))
    assert best(found) is found[0]
    difference = paired_difference(found[1], found[0])
    assert difference.count == 1 and math.isclose(difference.mean, 0.4)


@hypothesis.settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.floats(-10, 10))
def test_the_summary_is_shifted_with_its_values(values, shift):
    one, other = summary(values), summary([value + shift for value in values])
    assert math.isclose(other.mean, one.mean + shift, abs_tol=1e-9)
    assert math.isclose(other.std, one.std, abs_tol=1e-9) and one.count == len(values)


@hypothesis.settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_the_front_beats_every_other_point(points):
    front = pareto_front(points)
    chosen = [points[index] for index in front]
    assert chosen == sorted(set(chosen)) and sorted(y for _, y in chosen) == [y for _, y in chosen]
    for index, (x, y) in enumerate(points):
        beaten = any(a <= x and b >= y for a, b in chosen)
        assert beaten and (index not in front or not any(a < x and b >= y for a, b in points))


def with_epochs(directory, names, epochs):
    """Makes runs those of a base config that trains for so long."""
    for name in names:
        path = directory / name / "config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"num_epochs": epochs}))


def test_a_setting_is_everything_but_the_seed(tmp_path):
    make(tmp_path, grid(memory=(4,), width=(32,), seeds=range(4)), [0.3, 0.4, 0.6, 0.7])
    assert [setting.validation.count for setting in settings(records.read_sweep(tmp_path))] == [4]
    with_epochs(tmp_path, ["run0", "run1"], 1.0)
    one, other = settings(records.read_sweep(tmp_path))
    assert (one.values, other.values) == ({"num_epochs": 1.0}, {"num_epochs": 3.0})
    assert (one.validation.count, other.validation.count) == (2, 2)
    report.write_report(tmp_path)
    assert [row["num_epochs"] for row in rows(tmp_path)] == ["1.0", "1.0", "3.0", "3.0"]


def test_a_key_that_follows_by_reference_is_no_column(tmp_path):
    overrides = [{"model.embed_dim": d, "model.mlp_dim": 2 * d, "seed": 0} for d in (16, 24)]
    make(tmp_path, overrides, [0.5, 0.6], ("model.embed_dim", "seed"))
    assert len(settings(records.read_sweep(tmp_path))[0].values) == 2
    record = json.loads((tmp_path / "sweep.json").read_text())
    records.write_sweep(tmp_path, record["keys"], record["runs"], ["model.mlp_dim"])
    found = settings(records.read_sweep(tmp_path))
    assert [setting.values for setting in found] == [
        {"model.embed_dim": 16}, {"model.embed_dim": 24}
    ]  # fmt: skip


def test_only_results_of_the_best_checkpoint_count(tmp_path, no_pictures):
    make(tmp_path, grid(memory=(4,), width=(32,)), [0.5, 0.6])
    results = {"accuracy": 0.99, "step": 3}  # the best is step 2
    (tmp_path / "run1" / "results_test.json").write_text(json.dumps(results))
    report.write_report(tmp_path)
    assert [row["test_accuracy"] for row in rows(tmp_path)] == ["0.4", ""]
    text = (tmp_path / "sweep.md").read_text()
    assert "40.00 % (n = 1)" in text and "Left out: the test results of run1" in text


HOSTILE = "=cmd|'/c calc'!A1 <script>alert(1)</script> [x](javascript:y)\x1b[2J\n| # b"


def test_what_comes_from_outside_stands_as_text(tmp_path):
    make(tmp_path, [{"dataset.name": HOSTILE, "seed": n} for n in (0, 1)], [0.5, HOSTILE],
         ("dataset.name", "seed"))  # fmt: skip
    with_epochs(tmp_path, ["run1"], 1.0)
    report.write_report(tmp_path)
    assert rows(tmp_path)[1]["reason"].startswith("'=cmd")
    for name in ("sweep.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "<script" not in text and "\x1b" not in text
    *comments, begin, _, _, _, _, _, _, end = (tmp_path / "sweep.tex").read_text().splitlines()
    assert begin.startswith(r"\begin{tabular}") and end == r"\end{tabular}"
    assert HOSTILE[:20] in comments[1] and all(line.startswith("% ") for line in comments)
    assert "[x](" not in (tmp_path / "sweep.md").read_text()


WRONG = [
    ("sweep.json", {"keys": 3, "runs": []}),
    ("sweep.json", {"keys": [4], "runs": []}),
    ("sweep.json", {"keys": [], "runs": {}}),
    *[("sweep.json", {"keys": [], "runs": [{"name": name}]})
      for name in ("../..", "..", ".", "", "a/b", "/etc", "a\0b", 4, None)],
    ("sweep.json", {"keys": [], "runs": [{"name": "a", "parameters": "many"}]}),
    ("sweep.json", {"keys": [], "runs": [{"name": "a", "settings": {"seed": [1]}}]}),
    *[("sweep.json", {"keys": [], "runs": [], "space": space})
      for space in (4, {}, {"k": 4}, {"k": {"values": [[1]]}}, {"k": {"low": "a", "high": 2}},
                    {"k": {"low": 1}}, {"k": {"low": 1, "high": 2, "log": "yes"}},
                    {"k": {"values": []}}, {"k": {"low": 2, "high": 1}},
                    {"k": {"low": 0, "high": 1, "log": True}},
                    {"k": {"low": math.nan, "high": 1}})],
    ("sweep.json", {"keys": [], "runs": [], "command": 4}),
    ("latency.json", {"device": 4, "models": {}}),
    ("latency.json", {"device": "cpu", "models": [1]}),
    ("latency.json", {"device": "cpu", "models": {"m": "fast"}}),
    ("run0/results_test.json", {"accuracy": "high", "step": 2}),
    ("run0/results_test.json", {"accuracy": 40, "step": 2}),
    ("run0/ended.json", {"state": "odd", "reason": "x"}),
    ("run0/ended.json", {"state": "failed", "reason": {}}),
    ("run0/config.json", {"model": {}, "num_epochs": "x", "dataset": {"name": "digits"}}),
    ("run0/config.json", {"model": {}, "num_epochs": 1.0}),
    ("run0/config.json", {"model": {"norm": [1]}, "num_epochs": 1.0, "dataset": {"name": "d"}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), WRONG)
def test_a_value_that_cannot_be_is_one_clear_line(tmp_path, name, content):
    make(tmp_path, grid(memory=(4,), width=(32,)), [0.5, 0.6])
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=re.escape(name.rsplit("/")[-1])) as refusal:
        report.write_report(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_flipped_digit_is_noticed(tmp_path):
    make(tmp_path, grid(memory=(4,), width=(32,)), [None, "diverged in step 4"])
    for name in ("sweep.json", "run1/ended.json"):
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text(whole.replace("4", "5", 1))
        with pytest.raises(UserError, match="not what was written"):
            report.write_report(tmp_path)
        (tmp_path / name).write_text(whole)
    report.write_report(tmp_path)


@pytest.mark.parametrize("change", ["a digit", "a line", "the file"])
def test_a_log_that_is_not_what_the_run_has_logged_is_noticed(tmp_path, change):
    make(tmp_path, grid(memory=(4,), width=(32,)), [0.5, 0.6])
    path = tmp_path / "run1" / "metrics.jsonl"
    whole = path.read_text()
    with Checkpoints(tmp_path / "run1" / "checkpoints") as checkpoints:
        checkpoints.save(3, {"step": jnp.zeros(())}, val_accuracy=0.3, history=whole)
    report.write_report(tmp_path)
    lines = whole.splitlines(keepends=True)
    changed = {"a digit": whole.replace("0.6", "0.9"), "a line": "".join(lines[:1] + lines[2:])}
    path.unlink() if change == "the file" else path.write_text(changed[change])
    with pytest.raises(UserError, match=r"metrics\.jsonl is not what .* logged: [13] of its lines"):
        report.write_report(tmp_path)
    path.write_text(whole + '{"step": 4, "epoch": 4.0, "split": "val", "accuracy": 0.1}\n')
    report.write_report(tmp_path)  # a run that goes on has logged more than it has saved
