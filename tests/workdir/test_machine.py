"""What a run was computed on, and what is said where that changes."""

import json
import shutil

import pytest

import train
from eanet import config as config_lib
from eanet import files
from eanet.errors import UserError
from eanet.workdir import machine

NOW = {
    "device": "2 × cpu",
    "versions": {"jax": "1", "python": "3"},
    "settings": {"XLA_FLAGS": "-a"},
}


def test_a_new_run_and_an_unchanged_machine_say_nothing(tmp_path):
    assert machine.describe_change(tmp_path, NOW) == ""
    machine.write(tmp_path, NOW, 0)
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
    machine.write(tmp_path, NOW, 0)
    assert machine.describe_change(tmp_path, NOW | change) == said


def test_what_computed_before_stays_in_the_record(tmp_path):
    two, one = NOW, NOW | {"device": "1 × cpu"}
    for now, step in ((two, 0), (two, 3), (one, 5), (one, 6), (two, 9)):
        machine.write(tmp_path, now, step)
    record = files.read_record(tmp_path / machine.NAME)
    assert record == two | {
        "from_step": 9,
        "earlier": [two | {"from_step": 0}, one | {"from_step": 5}],
    }
    machine.write(tmp_path, one, 0)  # begun anew
    assert files.read_record(tmp_path / machine.NAME) == one | {"from_step": 0, "earlier": []}


def test_a_record_of_older_runs_has_no_steps(tmp_path):
    files.write_record(tmp_path / machine.NAME, NOW)
    machine.write(tmp_path, NOW, 4)
    assert files.read_record(tmp_path / machine.NAME) == NOW
    machine.write(tmp_path, NOW | {"device": "1 × cpu"}, 5)
    assert files.read_record(tmp_path / machine.NAME)["earlier"] == [NOW]


def test_a_damaged_record_is_refused_with_what_to_do(tmp_path):
    machine.write(tmp_path, NOW, 0)
    path = tmp_path / machine.NAME
    path.write_text(path.read_text().replace("2 ×", "3 ×"))
    with pytest.raises(UserError, match="remove it"):
        machine.describe_change(tmp_path, NOW)


def test_a_run_records_and_says_what_it_really_uses(trained, tmp_path, undrawn, capsys):
    """Two devices are there, and an odd batch takes one, of which the run has as many steps."""
    run = shutil.copytree(trained, tmp_path / "run")
    config = config_lib.from_json(run / "config.json")
    config.batch_size = 63
    (run / "config.json").write_bytes(config_lib.to_json(config))
    (run / "run.json").unlink()  # which is how a person says that it was meant
    for changed in (True, False):
        results = train.train(None, run)
        assert results["device"].startswith("1 × cpu")
        recorded = json.loads((run / "results_test.json").read_text())
        assert recorded["device"].startswith("1 × cpu")
        said = " ".join(capsys.readouterr().out.split())
        assert "1 of 2 devices are used: all processes need equally many, and batch_size=63" in said
        assert ("digits may be others" in said) == changed
        assert ("device: 2 × cpu" in said and ", now 1 × cpu" in said) == changed
