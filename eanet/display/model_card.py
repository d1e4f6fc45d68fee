"""`README.md` of a run: a model card as Hugging Face reads it, filled from what was recorded."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eanet import files
from eanet.display.markdown import escape, table
from eanet.display.numbers import RESULTS, duration, epochs, human, percent
from eanet.errors import printable
from eanet.workdir import log
from eanet.workdir.results import read_results

# The data sets' names at Hugging Face, where they differ from those of TFDS.
_HUB_NAMES = {
    "cifar100": "uoft-cs/cifar100",
    "cifar10": "uoft-cs/cifar10",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}
_SPLITS = {"test": "test", "val": "validation", "train": "train"}
_COLUMNS = ("accuracy", "top5_accuracy", "loss", "num_examples", "step")
_MEASURES = ("balanced_accuracy", "ece")  # columns where they were measured
_UNDESCRIBED = """\
Its blocks mix tokens by the attention *{}*; the project is about *external attention*
([Guo et al., 2021](https://arxiv.org/abs/2105.02358))."""

Record = Mapping[str, Any]


def write_model_card(workdir: str | Path, config: Record, attention: str = "") -> Path:
    """Writes `README.md` of a run from config, metrics.jsonl and results_*.json; returns its path.

    What has not been recorded is left out, and results of another checkpoint than the best. The
    config is by full key, as in "model.memory_size"; `attention` is what the run's attention says
    about itself, see `eanet.models.base.Attention`.

    Raises:
      UserError: a damaged record, or the card cannot be written.
    """
    workdir = Path(workdir)
    name = workdir.resolve().name
    metrics = workdir / "metrics.jsonl"
    records = log.read(metrics) if metrics.exists() else []
    results = {
        shown: record
        for split, shown in _SPLITS.items()
        if (record := read_results(workdir, split)) is not None and log.is_of_best(record, records)
    }
    any_split: Record = next(iter(results.values()), {})
    sections = [
        _front_matter(name, config, results),
        _description(name, config, any_split, attention),
        _results(workdir, results),
        _training(config, records),
        _evaluation(workdir, name),
        _environment(any_split),
        _limitations(config, any_split),
    ]
    text = "\n".join(section for section in sections if section)
    return files.write(workdir / "README.md", text.encode("utf-8", "replace"))


def _front_matter(name: str, config: Record, results: Mapping[str, Record]) -> str:
    import yaml

    kind, dataset = _dataset(config)
    attention = _attention(config)
    header: dict[str, Any] = {
        "license": "apache-2.0",
        "library_name": "flax",
        "pipeline_tag": "image-classification",
        "tags": [
            *("image-classification", "vision-transformer"),
            *([f"{attention}-attention"] if attention != "none" else []),
            "jax",
        ],
        "metrics": ["accuracy"],
    }
    if kind in _HUB_NAMES.values():
        header["datasets"] = [kind]
    entries = [
        {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"type": kind, "name": dataset, "split": split},
            "metrics": _metrics(record),
        }
        for split, record in results.items()
    ]
    if entries:
        header["model-index"] = [{"name": name, "results": entries}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _metrics(record: Record) -> list[dict[str, Any]]:
    return [
        # The Hub knows the metric "accuracy"; the name tells the two apart.
        {"type": key.removeprefix("top5_"), "name": RESULTS[key][0].capitalize(), "value": value}
        for key in ("accuracy", "top5_accuracy", "loss")
        if (value := record.get(key)) is not None
    ]


def _description(name: str, config: Record, results: Record, attention: str) -> str:
    about = attention.strip() or _UNDESCRIBED.format(escape(_attention(config)))
    text = f"# {escape(name)}\n\nA vision transformer. {about}\n"
    parameters, macs = results.get("parameters"), results.get("multiply_adds_per_image")
    if parameters is not None and macs is not None:
        text += (
            f"\nThis model has {parameters:,} parameters and needs {human(macs)} multiply-adds for "
            f"an image. It classifies images as those of {escape(_dataset(config)[1])}.\n"
        )
    return text


def _results(workdir: Path, results: Mapping[str, Record]) -> str:
    if not results:
        return "## Results\n\nNot evaluated yet.\n"
    measured = [key for key in _MEASURES if any(key in record for record in results.values())]
    columns = (*_COLUMNS, *measured)
    rows = [
        [split]
        + [RESULTS[key][1](record[key]) if record.get(key) is not None else "–" for key in columns]
        for split, record in results.items()
    ]
    text = f"## Results\n\n{table(('split', *(RESULTS[key][0] for key in columns)), rows)}"
    if (workdir / "curves.png").exists():
        text += "\n![Loss and accuracy over epochs](curves.png)\n"
    return text


def _training(config: Record, records: list[dict[str, Any]]) -> str:
    dataset = _dataset(config)[1]
    text = f"## Data and training\n\nTrained on {escape(dataset)}"
    if records:
        last = max(records, key=lambda record: record["step"])
        text += f" up to step {last['step']:,}, epoch {epochs(last['step'], last['epoch'])}"
    text += ".\n"
    if best := log.best_validation(records):
        accuracy, epoch = percent(best["accuracy"]), epochs(best["step"], best["epoch"])
        text += f"Best validation accuracy: {accuracy}, after epoch {epoch}.\n"
    # Where the data lay is no property of the model, and says who trained it.
    shown = {**config, "dataset.name": dataset} if "dataset.name" in config else {**config}
    shown.pop("dataset.data_dir", None)
    rows = [(escape(key), escape(str(value))) for key, value in shown.items()]
    return f"{text}\n{table(('setting', 'value'), rows)}"


def _evaluation(workdir: Path, name: str) -> str:
    # The directory as seen from here, or its name alone: no path of this machine.
    relative = os.path.relpath(workdir)
    place = printable(shlex.quote(name if relative.startswith("..") else relative))
    return f"""\
## Evaluate

In a checkout of the code, with the requirements installed and this directory as `--workdir`:

    python main.py --mode=eval --workdir={place}
"""


def _environment(results: Record) -> str:
    lines = []
    if results.get("device"):
        lines.append(f"device: {results['device']}")
    versions = results.get("versions")
    if isinstance(versions, Mapping):
        lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    if results.get("git_commit"):
        changed = ", with local changes" if results.get("git_dirty") else ""
        lines.append(f"code: commit {results['git_commit']}{changed}")
    if (seconds := results.get("evaluation_seconds")) is not None:
        lines.append(f"this evaluation took {duration(seconds)}")
    items = "".join(f"- {escape(line)}\n" for line in lines)
    return f"## Environment\n\n{items}" if items else ""


def _limitations(config: Record, results: Record) -> str:
    dataset = escape(_dataset(config)[1])
    return f"""\
## Limitations

- Trained on one data set, {dataset}, and meant for images like its own: the same size,
  the same kinds of things. Whatever it is shown, it answers with one of that set's classes.
- The results are of a single run with one seed; another seed gives slightly different ones.
- {_calibration(results)}
- It has not been examined for bias.
- A model for research and teaching; not for decisions about people.
"""


def _calibration(results: Record) -> str:
    ece, temperature, then = map(results.get, ("ece", "temperature", "ece_at_temperature"))
    if ece is None:
        return "Its probabilities have not been calibrated."
    text = f"Its probabilities are not calibrated: the expected calibration error is {percent(ece)}"
    if temperature is not None and then is not None:
        text += f", and {percent(then)} where the logits are divided by {temperature:.3f}"
    return f"{text}."


def _dataset(config: Record) -> tuple[str, str]:
    """What kind of data set it is, in the Hub's words, and its name without any directory."""
    name = str(config.get("dataset.name", "unknown"))
    if name.startswith("folder:"):
        return "imagefolder", "a folder of images"
    return _HUB_NAMES.get(name, name), name


def _attention(config: Record) -> str:
    return str(config.get("model.attention", "external"))
