import json
import math

import pytest
from optuna.trial import TrialState

from eanet import config as config_lib
from eanet.sweeps import spec
from eanet.sweeps.queue import Queue
from eanet.sweeps.search import Search, names
from eanet.sweeps.storage import open_storage

SPACE = {
    "model.memory_size": spec.OneOf(4, 8, 16),
    "model.depth": spec.Between(1, 4),
    "optimizer.learning_rate": spec.Between(1e-4, 1e-1, log=True),
}


def base():
    from configs import testing

    return testing.get_config().lock()


def search(directory, method, trials, place="here"):
    queue = Queue(open_storage(None, directory), "search", directory / place, heartbeat_timeout=1e9)
    queue.enqueue(dict.fromkeys(names(trials), "x"))
    return queue, Search(SPACE, base(), method)


def values(config):
    flat = dict(config_lib.flatten(config))
    return tuple(flat[key] for key in SPACE)


def run_all(directory, method, trials, hosts=1):
    """The suggestions of a search for a learning rate of 0.01, by name of the run."""
    workers = [search(directory, method, trials, f"host{n}") for n in range(hosts)]
    found = {}
    while claims := [(task, claim) for queue, task in workers if (claim := queue.take())]:
        for task, claim in claims:
            config = task.config(claim)
            found[claim.name] = values(config)
            claim.done(-abs(math.log(config.optimizer.learning_rate / 0.01)))
    return found


def test_random_values_lie_in_the_space_and_do_not_depend_on_who_draws(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    found = run_all(tmp_path / "one", "random", 12)
    assert list(found) == names(12) and len(set(found.values())) == 12
    for memory, depth, rate in found.values():
        assert memory in (4, 8, 16) and depth in (1, 2, 3, 4) and 1e-4 <= rate <= 1e-1
    assert run_all(tmp_path / "two", "random", 12, hosts=2) == found


def test_tpe_learns_from_what_was_found(tmp_path):
    found = list(run_all(tmp_path, "tpe", 40).values())
    errors = [abs(math.log(rate / 0.01)) for _, _, rate in found]
    assert sum(errors[-15:]) < 0.8 * sum(errors[:15])


def test_a_run_that_is_tried_again_keeps_its_values(tmp_path):
    queue, task = search(tmp_path, "tpe", 1)
    claim = queue.take()
    first = values(task.config(claim))
    claim.lock.close()  # the worker dies
    queue.requeue()
    other, other_task = search(tmp_path, "tpe", 2)
    claim = other.take()
    assert claim.name == "trial_0000" and values(other_task.config(claim)) == first
    claim.done(1.0)
    assert other.take().name == "trial_0001"  # more trials were asked for


def test_a_run_below_the_median_is_hopeless(tmp_path):
    queue, task = search(tmp_path, "random", 7)

    def hopeless(claim, accuracies):
        workdir = tmp_path / claim.name
        workdir.mkdir()
        task.config(claim)
        asked = []
        for step, accuracy in enumerate(accuracies, start=1):
            with open(workdir / "metrics.jsonl", "a") as file:
                line = {"step": step, "epoch": step, "split": "val", "accuracy": accuracy}
                file.write(json.dumps(line) + "\n")
            asked.append(task.hopeless(claim, workdir))
        return asked

    for _ in range(5):
        claim = queue.take()
        assert hopeless(claim, [0.1, 0.2, 0.3]) == [False] * 3
        claim.done(0.3)
    worse = queue.take()
    assert hopeless(worse, [0.05, 0.1, 0.2]) == [False, True, True]
    worse.pruned("worse")
    better = queue.take()
    assert hopeless(better, [0.05, 0.3, 0.4]) == [False] * 3
    assert queue.statuses()["trial_0005"].state is TrialState.PRUNED


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_nothing_warns(tmp_path, method, recwarn):
    run_all(tmp_path, method, 3)
    assert not recwarn.list
