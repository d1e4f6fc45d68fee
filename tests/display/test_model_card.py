import json

import pytest
import yaml
from ml_collections import ConfigDict

from eanet.config import flatten
from eanet.display.model_card import write_model_card
from eanet.errors import UserError

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
