import dataclasses
import json

import numpy as np
import pytest
import yaml
from ml_collections import ConfigDict

from eanet.config import flatten
from eanet.display.model_card import model_card, write_model_card
from eanet.errors import UserError
from eanet.workdir import model_record
from eanet.workdir.model_record import DataRecord, ModelRecord, SplitRecord

CONFIG = {
    "seed": 3,
    "num_epochs": 2,
    "dataset": {"name": "cifar100", "data_dir": "/home/someone/data"},
    "model": {"attention": "external", "memory_size": 16},
}
RESULTS = {
    "split": "test",
    "loss": 2.7571,
    "accuracy": 0.4391,
    "top5_accuracy": 0.7471,
    "num_examples": 10_000,
    "step": 14_398,
    "parameters": 361_380,
    "multiply_adds_per_image": 100_700_000,
    "evaluation_seconds": 33.2,
    "device": "1 × cpu",
    "versions": {"jax": "0.10.1"},
    "git_commit": "abc123",
    "git_dirty": True,
}


def card(workdir, config=CONFIG, **results):
    workdir.mkdir(exist_ok=True)
    for split, record in results.items():
        (workdir / f"results_{split}.json").write_text(json.dumps(record))
    path = write_model_card(workdir, dict(flatten(ConfigDict(config))))
    assert path == workdir / "README.md"
    text = path.read_text()
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_header_is_what_the_hub_reads(tmp_path):
    header, _ = card(tmp_path / "run", test=RESULTS, val={**RESULTS, "accuracy": 0.442})
    assert header["license"] == "apache-2.0"
    assert header["datasets"] == ["uoft-cs/cifar100"]
    (entry,) = header["model-index"]
    assert entry["name"] == "run"
    test, val = entry["results"]
    assert test["dataset"]["split"] == "test" and val["dataset"]["split"] == "validation"
    assert test["metrics"][0] == {"type": "accuracy", "name": "Top-1 accuracy", "value": 0.4391}
    assert val["metrics"][0]["value"] == 0.442


def test_the_text_states_what_was_recorded(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    record = {"step": 626, "epoch": 2.0, "split": "val", "accuracy": 0.1829}
    (workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (workdir / "curves.png").touch()
    _, body = card(workdir, test={**RESULTS, "step": 626})
    for text in (
        "| test | 43.91% | 74.71% | 2.7571 | 10,000 | 626 |",
        *("361,380 parameters", "100.7 M multiply-adds", "2105.02358"),
        *("step 626, epoch 2", "18.29%, after epoch 2", "| model.memory_size | 16 |"),
        *("python main.py --mode=eval --workdir=", "jax 0.10.1", "abc123, with local changes"),
        "(curves.png)",
    ):
        assert text in body


def test_what_was_not_recorded_is_left_out(tmp_path):
    header, body = card(tmp_path / "run", config={})
    assert "model-index" not in header and "datasets" not in header
    assert "Not evaluated yet" in body
    assert "None" not in body and "nan" not in body
    header, body = card(tmp_path / "run", test={"split": "test", "loss": None, "accuracy": 0.5})
    assert [metric["value"] for metric in header["model-index"][0]["results"][0]["metrics"]] == [
        0.5
    ]
    assert "| test | 50.00% | – | – | – | – |" in body
    assert "None" not in body


def test_no_directory_of_the_machine_is_told(tmp_path):
    config = {**CONFIG, "dataset": {"name": "folder:/home/someone/cats", "data_dir": "/home/x"}}
    config["init_from"] = "/home/someone/runs/first"
    for settings in (CONFIG, config):
        header, body = card(tmp_path / "run", config=settings, test=RESULTS)
        told = yaml.safe_dump(header) + body
        assert "/home" not in told and tmp_path.name not in told


def test_results_of_another_checkpoint_than_the_best_are_left_out(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    lines = [
        {"step": step, "epoch": step / 10, "split": "val", "accuracy": accuracy}
        for step, accuracy in ((10, 0.2), (20, 0.4), (30, 0.3))
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    header, body = card(workdir, test={**RESULTS, "step": 30}, val={**RESULTS, "step": 20})
    (entry,) = header["model-index"][0]["results"]
    assert entry["dataset"]["split"] == "validation" and "| test |" not in body
    assert "40.00%, after epoch 2." in body


def test_any_attention_is_described_by_its_own_words_or_named(tmp_path):
    header, body = card(tmp_path / "run", config={"model": {"attention": "my|own"}})
    assert "my|own-attention" in header["tags"] and r"the attention *my\|own*" in body
    path = write_model_card(tmp_path / "run", {}, "It looks at `every second` token.")
    assert "A vision transformer. It looks at `every second` token." in path.read_text()


@pytest.mark.parametrize(
    "wrong", [{"accuracy": "high"}, {"accuracy": 43.91}, {"step": 1.5}, {"parameters": [1]},
              {"loss": {}}, {"evaluation_seconds": True}],
)  # fmt: skip
def test_a_number_that_cannot_be_is_one_clear_line(tmp_path, wrong):
    with pytest.raises(UserError, match=rf"results_test.json is damaged: {next(iter(wrong))}="):
        card(tmp_path / "run", test={**RESULTS, **wrong})


def test_what_comes_from_outside_stands_as_text(tmp_path):
    hostile = "<script>alert(1)</script> [x](javascript:y) | `a`\x1b[2J\n# b"
    config = {hostile: hostile, "dataset": {"name": hostile}, "model": {"attention": hostile}}
    results = {**RESULTS, "device": hostile, "versions": {hostile: hostile}, "git_commit": hostile}
    _, body = card(tmp_path / "run", config=config, test=results)
    assert "<script" not in body and "[x](" not in body and "\x1b" not in body
    assert "\n# b" not in body and body.count(r"\[x\](javascript:y) \| \`a\`\\x1b") >= 7


def test_strange_names_keep_the_header_valid(tmp_path):
    workdir = tmp_path / "a: [b] #c 'd' \"e\" ünï |"
    header, body = card(workdir, config={"note": "a|b\nc"}, test=RESULTS)
    assert header["model-index"][0]["name"] == workdir.name
    assert r"| note | a\|b\\nc |" in body


def run_of(directory, seed, accuracy, *, epoch=2.0, best=0.3, **config):
    """A run as it lies on disk, trained for two epochs and tested at its best checkpoint."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**CONFIG, **config, "seed": seed}))
    lines = [{"step": 10 * n, "epoch": float(n), "split": "val", "accuracy": 0.3} for n in (1, 2)]
    lines[1] |= {"epoch": epoch, "accuracy": best}
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {**RESULTS, "step": 10, "accuracy": accuracy}
    (directory / "results_test.json").write_text(json.dumps(results))
    return directory


def test_seeds_of_the_same_settings_give_mean_and_deviation(tmp_path):
    workdir = run_of(tmp_path / "seed_0", 0, 0.40)
    alone = card(workdir)[1]
    assert "±" not in alone and "a single run with one seed" in alone
    run_of(tmp_path / "seed_1", 1, 0.42)
    run_of(tmp_path / "seed_2", 2, 0.47, dataset={"name": "cifar100", "data_dir": "/elsewhere"})
    # None of these counts: a second run of a seed, another setting, one that is not at its end,
    # one whose test is of another checkpoint than the best, and one that is damaged.
    run_of(tmp_path / "seed_1_again", 1, 0.99)
    run_of(tmp_path / "wide", 3, 0.99, model={"attention": "external", "memory_size": 32})
    run_of(tmp_path / "stopped", 4, 0.99, epoch=1.5)
    run_of(tmp_path / "other_step", 5, 0.99, best=0.4)
    (run_of(tmp_path / "damaged", 6, 0.99) / "results_test.json").write_text("{")
    _, body = card(workdir, config={**CONFIG, "seed": 0})
    accuracies = np.array([0.40, 0.42, 0.47])
    stated = f"{100 * accuracies.mean():.2f} ± {100 * accuracies.std(ddof=1):.2f} %"
    assert f"| top-1 accuracy | {stated} | 3 |" in body
    assert "Seeds 0, 1, 2" in body and "the run of seed 0" in body and "single run" not in body
    (workdir / "results_test.json").unlink()
    assert "±" not in card(workdir)[1]


def test_every_number_has_its_definition_and_n(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    splits = {
        name: SplitRecord(n, name) for name, n in (("train", 40_000), ("val", 0), ("test", 9))
    }
    record = ModelRecord(("a", "b"), (32, 32, 3), *[(1.0,) * 3] * 2, DataRecord("x", None, splits))
    model_record.write(workdir, record)
    _, body = card(workdir, test={**RESULTS, "ece": 0.06, "balanced_accuracy": 0.4})
    heading = next(line for line in body.splitlines() if line.startswith("| split | top-1"))
    for name in heading.strip("| ").split(" | ")[1:]:
        assert f"\n- {name}: " in body
    assert "2 classes, images 32 × 32 × 3" in body
    assert "| train | 40,000 |" in body and "| validation | 0 |" in body and "| test | 9 |" in body
    assert "the source calls" not in body
    data = DataRecord("x", None, splits, tested_on="validation")
    model_record.write(workdir, dataclasses.replace(record, data=data))
    assert "The test split is what the source calls validation." in card(workdir)[1]


def test_the_card_for_the_hub_says_how_to_load_it_from_there(tmp_path):
    text = model_card(tmp_path, {}, repository="someone/digits").decode()
    assert text.count("hf:someone/digits") == 3 and "# digits\n" in text
    assert tmp_path.name not in text
