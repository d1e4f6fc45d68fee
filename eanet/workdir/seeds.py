"""The runs that differ from a run in the seed alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eanet import config as config_lib
from eanet.errors import UserError
from eanet.workdir import log
from eanet.workdir.results import read_results

SEED = "seed"
# Runs that differ in these alone are of one setting.
NO_SETTING = {SEED, "dataset.data_dir"}
_SAME_IMAGES = ("num_examples", "fingerprint")


def tested(workdir: Path, among: Iterable[Path] | None = None) -> dict[int, dict[str, Any]]:
    """What `results_test.json` says by seed, of a run and of others of its setting.

    Only runs that were trained to their end count, tested at their best checkpoint on the same
    images. Empty where the run itself is none; one that cannot be read is passed over.

    Args:
      workdir: directory of the run.
      among: directories of the others; by default those beside it.
    """
    workdir = workdir.resolve()
    config = _config(workdir)
    own = _results(workdir, config)
    if own is None:
        return {}
    found = {config[SEED]: own}
    if among is None:
        among = (path.parent for path in sorted(workdir.parent.glob("*/results_test.json")))
    for directory in among:
        other = _config(directory)
        if _setting(other) != _setting(config):
            continue
        results = _results(directory, other)
        if results and all(results.get(key) == own.get(key) for key in _SAME_IMAGES):
            found.setdefault(other[SEED], results)
    return dict(sorted(found.items()))


def _config(workdir: Path) -> dict[str, Any]:
    try:
        return dict(config_lib.flatten(config_lib.from_json(workdir / "config.json")))
    except UserError:
        return {}


def _setting(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NO_SETTING}


def _results(workdir: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those of a run that was trained to its end, at its best checkpoint."""
    try:
        results, lines = read_results(workdir, "test"), log.read(workdir / "metrics.jsonl")
    except UserError:
        return None
    seed, end = config.get(SEED), config.get("num_epochs")
    if not (isinstance(seed, int) and isinstance(end, int | float) and lines and results):
        return None
    if lines[-1]["epoch"] < end - 1e-5 or not log.is_of_best(results, lines):
        return None
    return results
