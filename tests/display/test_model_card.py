import json

import pytest
import yaml

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
    "wall_time_seconds": 33.2,
    "device": "1 × cpu",
    "versions": {"jax": "0.10.1"},
    "git_commit": "abc123",
    "git_dirty": True,
}


def card(workdir, config=CONFIG, **results):
    workdir.mkdir(exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config))
    for split, record in results.items():
        (workdir / f"results_{split}.json").write_text(json.dumps(record))
    path = write_model_card(workdir)
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
    _, body = card(workdir, test=RESULTS)
    for text in (
        "| test | 43.91% | 74.71% | 2.7571 | 10,000 | 14,398 |",
        *("361,380 parameters", "100.7 M multiply-adds", "2105.02358", "U · M_kᵀ"),
        *("step 626, epoch 2", "18.29%, after epoch 2", "| `model.memory_size` | 16 |"),
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


def test_self_attention_is_described_as_such(tmp_path):
    header, body = card(tmp_path / "run", config={"model": {"attention": "self"}})
    assert "self-attention" in header["tags"] and "softmax(Q" in body


def test_strange_names_keep_the_header_valid(tmp_path):
    workdir = tmp_path / "a: [b] #c 'd' \"e\" ünï |"
    header, body = card(workdir, config={"note": "a|b\nc"}, test=RESULTS)
    assert header["model-index"][0]["name"] == workdir.name
    assert "| `note` | a\\|b c |" in body


def test_a_directory_without_config_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        write_model_card(tmp_path)
