"""The runs that lie beside a run and differ from it in the seed alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eanet import config as config_lib
from eanet.errors import UserError
from eanet.workdir import log
from eanet.workdir.results import read_results

SEED = "seed"
# Runs that differ in these alone are of one setting.
NO_SETTING = {SEED, "dataset.data_dir"}


class _Tested(NamedTuple):
    seed: int
    setting: Mapping[str, Any]
    results: dict[str, Any]


def tested(workdir: Path) -> dict[int, dict[str, Any]]:
    """What `results_test.json` says by seed, of a run and of the directories beside it.

    Only runs that were trained to their end count, tested at their best checkpoint on the same
    images. Empty where the run itself is none; one that cannot be read is passed over.
    """
    workdir = workdir.resolve()
    own = _read(workdir)
    if own is None:
        return {}
    found = {own.seed: own.results}
    for path in sorted(workdir.parent.glob("*/config.json")):
        other = _read(path.parent)
        if other and other.setting == own.setting and _images(other) == _images(own):
            found.setdefault(other.seed, other.results)
    return dict(sorted(found.items()))


def _read(workdir: Path) -> _Tested | None:
    try:
        config = dict(config_lib.flatten(config_lib.from_json(workdir / "config.json")))
        results = read_results(workdir, "test")
        lines = log.read(workdir / "metrics.jsonl")
    except UserError:
        return None
    seed, end = config.get(SEED), config.get("num_epochs")
    if not (isinstance(seed, int) and isinstance(end, int | float) and lines and results):
        return None
    if lines[-1]["epoch"] < end - 1e-5 or not log.is_of_best(results, lines):
        return None
    setting = {key: value for key, value in config.items() if key not in NO_SETTING}
    return _Tested(seed, setting, results)


def _images(run: _Tested) -> tuple[Any, Any]:
    return run.results.get("num_examples"), run.results.get("fingerprint")
