"""How much each searched key matters: fANOVA of Optuna over the finished trials of a search."""

import math
from typing import Any

from eanet.sweeps.records import RunRecord, SweepRecord
from eanet.sweeps.spec import Between, OneOf, Space

_LEAST = 5  # trials


def importances(sweep: SweepRecord) -> dict[str, float]:
    """For each searched key its share in the variance of the validation accuracy, 1 together.

    Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", 2014. Empty of
    fewer than five finished trials, or where all of them are equally good.
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    space = sweep.space or {}
    distributions = {key: _distribution(values) for key, values in space.items()}
    trials = [
        optuna.create_trial(
            params={key: run.settings[key] for key in space},
            distributions=distributions,
            value=run.val_accuracy,
        )
        for run in sweep.runs
        if run.state == "done" and is_of(space, run)
    ]
    if len(trials) < _LEAST or len({trial.value for trial in trials}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def is_of(space: Space, run: RunRecord) -> bool:
    """Whether a run is one of a search in this space, and has an accuracy."""
    return math.isfinite(run.val_accuracy) and all(
        _holds(values, run.settings.get(key)) for key, values in space.items()
    )


def _holds(values: Between | OneOf, value: Any) -> bool:
    if isinstance(values, OneOf):
        return value in values.values
    return isinstance(value, int | float) and values.low <= value <= values.high


def _distribution(values: Between | OneOf) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(values, OneOf):
        return CategoricalDistribution(values.values)
    if isinstance(values.low, int):
        return IntDistribution(values.low, int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
