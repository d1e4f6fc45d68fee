"""What is recorded of an evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eanet import files
from eanet.environment import environment


def write_results(workdir: str | Path, split: str, results: Mapping[str, Any]) -> Path:
    """Writes `results_SPLIT.json` and returns its path.

    Args:
      workdir: Directory of the run.
      split: "test", "val" or "train".
      results: loss, accuracy and top5_accuracy (fractions), num_examples, step (of the
        checkpoint), parameters, multiply_adds_per_image, wall_time_seconds. What
        `environment` tells is added.

    Raises:
      UserError: The file cannot be written; an older one is untouched.
    """
    return files.write_json(
        Path(workdir) / f"results_{split}.json",
        {"split": split, **results, **environment()},
        "make room or mend its directory, then evaluate again",
    )
