"""`predictions_SPLIT.csv`: what a model answered to each image of a split, a row for each."""

import csv
import hashlib
import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from eanet import files
from eanet.data.base import Log, content_fingerprint
from eanet.display import spreadsheet
from eanet.errors import UserError
from eanet.inference.examples import load_examples
from eanet.inference.measures import Answers
from eanet.inference.model import Model
from eanet.workdir import log
from eanet.workdir.results import read_results

_COLUMNS = (
    "index", "label", "prediction", "correct", "probability", "label_probability", "label_rank"
)  # fmt: skip


class Recorded(NamedTuple):
    """What a run has recorded of the best checkpoint and a split."""

    results: dict[str, Any]  # of `results_SPLIT.json`
    correct: Bool[np.ndarray, "n"]  # whether the prediction for an image is its label


def table(answers: Answers, class_names: Sequence[str]) -> bytes:
    """The file, in the order of the images.

    `probability` is that of the predicted class and `label_probability` that of the label, whose
    place among all classes is `label_rank`: 1 where the prediction is correct.
    """
    names = np.array(class_names, object)
    probabilities = answers.confidences, np.exp(answers.label_log_probabilities)
    columns = (
        range(len(answers.labels)),
        names[answers.labels],
        names[answers.predictions],
        answers.correct.astype(int),
        *([f"{value:.6g}" for value in values] for values in probabilities),
        answers.label_ranks,
    )
    return spreadsheet.table(_COLUMNS, zip(*columns, strict=True))


def read(workdir: Path, split: str) -> Recorded:
    """Reads the file together with `results_SPLIT.json`, whose digest of it must agree.

    Raises:
      UserError: one of them is missing, damaged, or from another evaluation than the other; or the
        run has a better checkpoint since.
    """
    again = f"python main.py --mode=eval --workdir={shlex.quote(str(workdir))} --split={split}"
    path = workdir / f"predictions_{split}.csv"
    if not workdir.is_dir():
        raise UserError(f"there is no run in {workdir}: give the directory of one")
    results = read_results(workdir, split)
    if results is None:
        raise UserError(f"{workdir} has no results_{split}.json: {again} writes it")
    metrics = workdir / "metrics.jsonl"
    if metrics.exists() and not log.is_of_best(results, log.read(metrics)):
        raise UserError(
            f"{workdir} has results of step {results.get('step')}, and since then another "
            f"checkpoint is the best: {again} writes those of it"
        )
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {again} writes it") from None
    if hashlib.sha256(data).hexdigest() != (results.get("files") or {}).get(path.name):
        raise UserError(f"{path} is not what was written with the results: {again} writes it anew")
    rows = csv.DictReader(io.StringIO(data.decode(errors="replace")))
    correct = np.array([row.get("correct") == "1" for row in rows], bool)
    if len(correct) != results.get("num_examples"):
        raise UserError(
            f"{path} has {len(correct):,} rows, not one for each image: {again} writes it"
        )
    return Recorded(results, correct)


def measured(model: Model, split: str, say: Log) -> Recorded:
    """The same of a model without a run's directory, which answers the split now.

    Raises:
      UserError: the data cannot be had, or is not what the model was trained on; or an answer is
        not finite.
    """
    examples = load_examples(model, split, log=say).split
    probabilities = model.predict(examples.images)
    if not np.isfinite(probabilities).all():
        raise UserError(f"{model} answers numbers that are not finite: nothing can be compared")
    fingerprint = content_fingerprint(examples, model.class_names, ordered=True)
    results = {"num_examples": len(examples), "examples_fingerprint": fingerprint}
    return Recorded(results, probabilities.argmax(axis=1) == examples.labels)
