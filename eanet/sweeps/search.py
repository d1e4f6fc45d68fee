"""Search beyond grids: Optuna suggests the settings of each run, and stops the hopeless ones."""

import random
from pathlib import Path
from typing import Any

import optuna
from ml_collections import ConfigDict
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from eanet.config import override
from eanet.sweeps import records as records_lib
from eanet.sweeps.queue import Claim
from eanet.sweeps.spec import Between, OneOf, Space
from eanet.sweeps.workers import Task


def names(trials: int) -> list[str]:
    """The names of a search's runs."""
    return [f"trial_{number:04}" for number in range(trials)]


class Search(Task):
    """The runs of a search.

    A run is stopped where its best validation accuracy so far is below the median of those of
    the other runs after as many validations; never among the first five, and not at the first
    validation (Optuna's median rule). `method` is "tpe", which learns from the results that the
    queue remembers, or "random".
    """

    def __init__(self, space: Space, base: ConfigDict, method: str):
        super().__init__(tuple(space), {}, space)
        self._space = space
        self._base = base
        self._method = method
        self._reported: dict[int, tuple[optuna.Trial, int]] = {}

    def config(self, claim: Claim) -> ConfigDict:
        """The config that is suggested for a run; a run that is tried again keeps its own."""
        # A seed for each run: hosts that start at the same time shall not suggest the same.
        seed = random.Random(f"{self._base.seed} {claim.name}").getrandbits(32)
        sampler: BaseSampler = RandomSampler(seed)
        if self._method == "tpe":
            sampler = TPESampler(seed=seed, constant_liar=True)  # counts what runs elsewhere as bad
        trial = claim.trial(sampler, MedianPruner(n_startup_trials=5, n_warmup_steps=2))
        self._reported[claim.trial_id] = trial, 0
        choices = {key: _suggest(trial, key, values) for key, values in self._space.items()}
        return override(self._base, choices)

    def hopeless(self, claim: Claim, workdir: Path) -> bool:
        """Tells Optuna the validation results of a run; whether it should be stopped."""
        trial, count = self._reported[claim.trial_id]
        run = records_lib.glance(workdir)
        records = run.validations if run else []
        stop = False
        for number, record in enumerate(records[count:], start=count + 1):
            trial.report(record["accuracy"], number)
            stop = trial.should_prune()
        self._reported[claim.trial_id] = trial, len(records)
        return stop


def _suggest(trial: optuna.Trial, key: str, values: Between | OneOf) -> Any:
    if isinstance(values, OneOf):
        return trial.suggest_categorical(key, values.values)
    suggest: Any = trial.suggest_int if isinstance(values.low, int) else trial.suggest_float
    return suggest(key, values.low, values.high, log=values.log)
