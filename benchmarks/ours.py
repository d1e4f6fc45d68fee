"""This project as a contestant: the program of `main.py`, from config to compiled steps."""

from eanet import host

if __name__ == "__main__":
    host.set_up()  # as main.py does, before JAX is imported

from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks.contestant import Prepared, random_images, repeat, serve
from eanet.data.load import Dataset, Split
from eanet.environment import environment
from eanet.models import costs
from eanet.training.run import Run, set_up


def prepare(task: dict[str, Any]) -> Prepared:
    """Builds what `train.train` builds, on random images."""
    config = ConfigDict(task["config"])
    examples = Split(*random_images(task, 64 * max(config.batch_size, task["evaluated"])))
    run = set_up(config, print, dataset=dataset_of(examples, task["num_classes"]))
    parameters = costs.count_parameters(run.model.abstract)
    facts = environment() | {"host_settings": host.settings()}
    if task["evaluated"]:
        return Prepared(evaluation(run, task["evaluated"]), task["evaluated"], parameters, facts)
    return Prepared(training(run), config.batch_size, parameters, facts)


def dataset_of(examples: Split, num_classes: int) -> Dataset:
    """A data set whose splits are all the same random images."""
    middle = np.full(examples.images.shape[-1], 127.5, np.float32)
    names = tuple(map(str, range(num_classes)))
    return Dataset("random", examples, examples, examples, names, middle, middle / 2)


def training(run: Run):
    """Training steps as `eanet.training.loop.Training` runs them."""
    train_steps, state, step = run.make_train_steps(), run.initial_state(), 0
    placed, epoch = run.placed(0), len(run.dataset.train) // run.config.batch_size

    def work(count: int) -> None:
        nonlocal state, step
        while count > 0:
            taken = min(count, epoch)
            state, _, reached = train_steps(state, *placed, run.seed, step, 0, taken)
            step, count = step + taken, count - taken
        assert int(reached) == step  # waits, as the loop does

    return work


def evaluation(run: Run, count: int):
    """Evaluation as `train.evaluate` runs it, of so many images a unit."""
    params, test = run.initial_state().eval_params, run.dataset.test
    return repeat(partial(run.evaluate, params, Split(test.images[:count], test.labels[:count])))


if __name__ == "__main__":
    serve(prepare)
