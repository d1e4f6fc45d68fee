"""What a run was computed on, and what is said where that changes."""

import json

import pytest

import train
from configs import testing
from eanet.errors import UserError
from eanet.workdir import machine

NOW = {
    "device": "2 × cpu",
    "versions": {"jax": "1", "python": "3"},
    "settings": {"XLA_FLAGS": "-a"},
}


def test_a_new_run_and_an_unchanged_machine_say_nothing(tmp_path):
    assert machine.describe_change(tmp_path, NOW) == ""
    machine.write(tmp_path, NOW)
    assert machine.describe_change(tmp_path, NOW) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"device": "1 × cpu"}, "device: 2 × cpu, now 1 × cpu"),
        ({"versions": {"jax": "2", "python": "3"}}, "jax: 1, now 2"),
        ({"settings": {}}, "XLA_FLAGS: -a, now not set"),
        ({"settings": {"XLA_FLAGS": "-a", "X": "1"}}, "X: not set, now 1"),
    ],
)
def test_what_has_changed_is_named(tmp_path, change, said):
    machine.write(tmp_path, NOW)
    assert machine.describe_change(tmp_path, NOW | change) == said


def test_a_damaged_record_is_refused_with_what_to_do(tmp_path):
    machine.write(tmp_path, NOW)
    path = tmp_path / machine.NAME
    path.write_text(path.read_text().replace("2 ×", "3 ×"))
    with pytest.raises(UserError, match="remove it"):
        machine.describe_change(tmp_path, NOW)


def test_a_run_records_and_says_what_it_really_uses(tmp_path, capsys):
    """Two devices are there, and an odd batch takes one; the next start has a flag of XLA."""
    config = testing.get_config()
    config.batch_size, config.num_epochs = 63, 1.0
    results = train.train(config, tmp_path)
    assert results["device"].startswith("1 × cpu")
    assert json.loads((tmp_path / "results_test.json").read_text())["device"].startswith("1 × cpu")
    said = capsys.readouterr().out
    assert "1 of 2 devices are used: batch_size=63" in said and "digits may be others" not in said
    record = json.loads((tmp_path / machine.NAME).read_text())
    del record["sha256"]
    machine.write(tmp_path, record | {"device": "8 × cpu"})
    train.train(None, tmp_path)
    assert "device: 8 × cpu, now 1 × cpu" in " ".join(capsys.readouterr().out.split())
