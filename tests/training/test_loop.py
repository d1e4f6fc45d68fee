"""What happens to a run in training: signals, lost files, another trainer, steps that fail."""

import json
import os
import shlex
import shutil
import signal
from unittest import mock

import pytest

import train
from configs import testing
from eanet.checkpoints import manifest
from eanet.display.progress import Progress
from eanet.errors import Interrupted, TrainingDiverged, UserError
from eanet.tools.verify_resume import digests
from eanet.training import run as run_lib
from eanet.workdir import lock as lock_lib
from tests.helpers import plain

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def in_epochs(action):
    """Calls `action()` whenever an epoch has been reported."""
    epoch_done = Progress.epoch_done

    def act(*arguments, **options):
        epoch_done(*arguments, **options)
        action()

    return mock.patch.object(Progress, "epoch_done", act)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_saves_the_state_and_training_goes_on(trained, tmp_path, capsys, number):
    seen = []

    def act():
        seen.append(sorted(path.name for path in tmp_path.glob("run/checkpoints/*")))
        os.kill(os.getpid(), number)

    with in_epochs(act):
        train.train(testing.get_config(), tmp_path / "run")
    assert seen == [[], ["20"]]
    assert f"{number.name}: the state after step 20 is saved; training goes on" in (
        capsys.readouterr().out
    )
    assert digests(tmp_path / "run") == digests(trained)


@pytest.mark.slow
def test_a_signal_in_the_final_evaluation_is_answered_and_writes_nothing(
    trained, tmp_path, monkeypatch
):
    set_up = run_lib.set_up

    def stopping(*arguments, **options):
        run = set_up(*arguments, **options)
        evaluate = run.evaluate

        def stopped(params, examples, should_stop, *logits):
            if examples is run.dataset.test:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(params, examples, should_stop, *logits)

        object.__setattr__(run, "evaluate", stopped)
        return run

    monkeypatch.setattr(train, "set_up", stopping)
    with pytest.raises(Interrupted, match="the same command evaluates again") as interrupted:
        train.train(testing.get_config(), tmp_path / "run")
    assert interrupted.value.signal == signal.SIGTERM
    assert not (tmp_path / "run" / "results_test.json").exists()
    monkeypatch.undo()
    train.train(None, tmp_path / "run")
    assert digests(tmp_path / "run") == digests(trained)


def best_validation(workdir):
    """What the model card says of it."""
    card = (workdir / "README.md").read_text()
    found = [line for line in card.splitlines() if "validation" in line.lower()]
    assert found
    return found


@pytest.mark.parametrize("damage", ["lost", "cut", "changed", "emptied"])
def test_a_log_gets_back_what_it_has_lost(copy, capsys, damage):
    path = copy / "metrics.jsonl"
    whole = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        first = whole.splitlines(keepends=True)[0]
        content = {
            "cut": first,
            "changed": whole.replace(b'"loss": ', b'"loss": 1'),
            "emptied": b"",
        }
        path.write_bytes(content[damage])
    before = best_validation(copy)
    train.train(None, copy)
    assert path.read_bytes() == whole
    assert "lines restored from the checkpoint of step 39" in capsys.readouterr().out
    assert best_validation(copy) == before
    assert (copy / "metrics.jsonl.damaged").exists() == (damage == "changed")


@pytest.mark.slow
@pytest.mark.parametrize("validated", [True, False])
def test_what_no_checkpoint_holds_is_marked_and_not_invented(copy, tmp_path, capsys, validated):
    """As in a run of the version before, whose checkpoints hold no lines."""
    if not validated:
        shutil.rmtree(copy)
        train.train(plain.get_config(**{"dataset.val_fraction": 0.0}), copy)
    (checkpoint,) = (copy / "checkpoints").iterdir()
    metadata = manifest.metadata_of(checkpoint)
    manifest.amend(checkpoint, {**metadata, "history": ""})
    before = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    (copy / "metrics.jsonl").unlink()
    for _ in range(2):
        capsys.readouterr()
        train.train(None, copy)
        lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
        ends = [line for line in before if line["split"] == "train"]
        assert lines[:2] == [
            {"step": end["step"], "epoch": end["epoch"], "split": "lost"} for end in ends
        ]
        assert lines[2:] == [line for line in before if line["split"] == "val"], "measured again"
    assert "lacks the lines" not in capsys.readouterr().out, "said once"


def test_a_removed_lock_is_taken_again(trained, tmp_path):
    workdir = tmp_path / "run"

    def remove():
        (workdir / ".lock").unlink()

    with in_epochs(remove):
        train.train(testing.get_config(), workdir)
    assert digests(workdir) == digests(trained)


def test_another_trainer_that_came_in_is_left_alone(tmp_path):
    workdir, others = tmp_path / "run", []

    def replace():
        (workdir / ".lock").unlink()
        others.append(lock_lib.acquire(workdir / ".lock"))

    with in_epochs(replace), pytest.raises(UserError, match=r"\.lock has been replaced"):
        train.train(testing.get_config(), workdir)
    assert len(others) == 1 and others[0].is_intact()
    assert not list(workdir.glob("checkpoints/*"))
    others[0].close()


FAILING = {
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 1e30,
    "optimizer.schedule": "constant",
    "on_nonfinite": "skip",
    "nonfinite_limit": 2,
}


@pytest.mark.slow
def test_steps_that_were_skipped_are_counted_where_the_limit_ends_training(tmp_path):
    with pytest.raises(TrainingDiverged, match=r"after 2 skipped steps, .*nonfinite_limit") as end:
        train.train(plain.get_config(**FAILING), tmp_path / "a run's")
    record = json.loads((tmp_path / "a run's" / "blackbox.json").read_text())
    assert record["skipped_steps"] == 2
    assert shlex.split(record["replay"])[-1] == f"--workdir={tmp_path}/a run's"
    assert record["replay"] in str(end.value)


@pytest.mark.parametrize(
    "odd",
    [
        {"step": "3"},
        {"step": True},
        {"step": -1},
        {"step": 2**70},
        {"step": 1.5},
        {"indices": None},
        {"indices": [[1]]},
        {"indices": ["a"]},
        {"indices": [2**40]},
    ],
)
def test_an_odd_record_of_a_failed_step_is_refused(copy, odd):
    record = {"step": 39, "indices": [0]}
    (copy / "blackbox.json").write_text(json.dumps({**record, **odd}))
    with pytest.raises(UserError, match=r"blackbox\.json is damaged; train again"):
        train.replay(copy)


def test_a_record_of_another_batch_is_refused(copy):
    for step in (39, 2**31 - 1):
        (copy / "blackbox.json").write_text(json.dumps({"step": step, "indices": [0]}))
        with pytest.raises(UserError, match="the data changed"):
            train.replay(copy)


@pytest.mark.slow
def test_layers_are_compiled_once(tmp_path):
    made = []
    make = run_lib.make_examine
    with mock.patch.object(run_lib, "make_examine", lambda *a: made.append(1) or make(*a)):
        train.train(plain.get_config(layer_statistics=True), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert sum(line["split"] == "layers" for line in lines) == 2 and made == [1]


@pytest.mark.slow
def test_parameters_in_float16_train_with_the_epsilon_that_is_advised(tmp_path):
    changes = {"model.param_dtype": "float16", "optimizer.epsilon": 1e-4, "num_epochs": 4.0}
    assert train.train(plain.get_config(**changes), tmp_path / "run")["accuracy"] > 0.3
