"""`README.md` of a run: a model card as Hugging Face reads it, filled from what was recorded."""

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eanet import files
from eanet.display.markdown import escape, table
from eanet.display.numbers import RESULTS, duration, epochs, human, percent
from eanet.errors import UserError, printable
from eanet.files import read_record
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
_PAPER = "[Guo et al., 2021](https://arxiv.org/abs/2105.02358)"
_COLUMNS = ("accuracy", "top5_accuracy", "loss", "num_examples", "step")

Record = Mapping[str, Any]


def write_model_card(workdir: str | Path, attention: str = "") -> Path:
    """Writes the model card of a run, from config.json, metrics.jsonl and results_*.json alone.

    What has not been recorded is left out, and results of another checkpoint than the best.

    Args:
      workdir: of the run.
      attention: what the run's attention computes, in Markdown, see `eanet.models.base.Attention`.

    Returns:
      The path of `README.md`.

    Raises:
      UserError: No `config.json`, a damaged record, or the card cannot be written.
    """
    workdir = Path(workdir)
    config = read_record(workdir / "config.json")
    if config is None:
        raise UserError(
            f"no config.json in {workdir}: give the directory of a run that was started"
        )
    metrics = workdir / "metrics.jsonl"
    records = log.read(metrics) if metrics.exists() else []
    found = {split: read_results(workdir, split) for split in _SPLITS}
    results = {
        split: record
        for split, record in found.items()
        if record is not None and log.is_of_best(record, records)
    }
    sections = [
        _front_matter(workdir, config, results),
        _description(workdir, config, results, attention),
        _results(workdir, results),
        _training(config, records),
        _evaluation(workdir),
        _environment(results),
        _limitations(config),
    ]
    text = "\n".join(section for section in sections if section)
    return files.write(workdir / "README.md", text.encode("utf-8", "replace"))


def _front_matter(workdir: Path, config: Record, results: Mapping[str, Record]) -> str:
    import yaml

    kind, name = _dataset(config)
    header: dict[str, Any] = {
        "license": "apache-2.0",
        "library_name": "flax",
        "pipeline_tag": "image-classification",
        "tags": [
            "image-classification",
            "vision-transformer",
            f"{_attention(config)}-attention",
            "jax",
        ],
        "metrics": ["accuracy"],
    }
    if kind in _HUB_NAMES.values():
        header["datasets"] = [kind]
    entries = [
        {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"type": kind, "name": name, "split": _SPLITS[split]},
            "metrics": _metrics(record),
        }
        for split, record in results.items()
    ]
    if entries:
        header["model-index"] = [{"name": _name(workdir), "results": entries}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _metrics(record: Record) -> list[dict[str, Any]]:
    return [
        # The Hub knows the metric "accuracy"; the name tells the two apart.
        {"type": key.removeprefix("top5_"), "name": RESULTS[key][0].capitalize(), "value": value}
        for key in ("accuracy", "top5_accuracy", "loss")
        if (value := record.get(key)) is not None
    ]


def _description(
    workdir: Path, config: Record, results: Mapping[str, Record], attention: str
) -> str:
    about = attention.strip() or (
        f"Its blocks mix tokens by the attention *{escape(_attention(config))}*; the project is "
        f"about *external attention* ({_PAPER})."
    )
    text = f"# {escape(_name(workdir))}\n\nA vision transformer. {about}\n"
    sizes = next(iter(results.values()), {})
    parameters, macs = sizes.get("parameters"), sizes.get("multiply_adds_per_image")
    if parameters is not None and macs is not None:
        text += (
            f"\nThis model has {parameters:,} parameters and needs {human(macs)} multiply-adds for "
            f"an image. It classifies images as those of {escape(_dataset(config)[1])}.\n"
        )
    return text


def _results(workdir: Path, results: Mapping[str, Record]) -> str:
    if not results:
        return "## Results\n\nNot evaluated yet.\n"
    rows = [
        (_SPLITS[split], *(_shown(record, key) for key in _COLUMNS))
        for split, record in results.items()
    ]
    text = f"## Results\n\n{table(('split', *(RESULTS[key][0] for key in _COLUMNS)), rows)}"
    if (workdir / "curves.png").exists():
        text += "\n![Loss and accuracy over epochs](curves.png)\n"
    return text


def _training(config: Record, records: list[dict[str, Any]]) -> str:
    text = f"## Data and training\n\nTrained on {escape(_dataset(config)[1])}"
    if records:
        last = max(records, key=lambda record: record["step"])
        text += f" up to step {last['step']:,}, epoch {epochs(last['step'], last['epoch'])}"
    text += ".\n"
    if best := log.best_validation(records):
        accuracy, epoch = percent(best["accuracy"]), epochs(best["step"], best["epoch"])
        text += f"Best validation accuracy: {accuracy}, after epoch {epoch}.\n"
    # Where the data lay is no property of the model, and says who trained it.
    settings = [(key, value) for key, value in _flat(config) if key != "dataset.data_dir"]
    rows = [(escape(key), escape(_setting(key, value, config))) for key, value in settings]
    return f"{text}\n{table(('setting', 'value'), rows)}"


def _evaluation(workdir: Path) -> str:
    place = printable(shlex.quote(_shown_path(workdir)))
    return f"""\
## Evaluate

In a checkout of the code, with the requirements installed and this directory as `--workdir`:

    python main.py --mode=eval --workdir={place}
"""


def _environment(results: Mapping[str, Record]) -> str:
    record = next(iter(results.values()), None)
    if record is None:
        return ""
    lines = []
    if record.get("device"):
        lines.append(f"device: {record['device']}")
    versions = record.get("versions")
    if isinstance(versions, Mapping):
        lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    if record.get("git_commit"):
        changed = ", with local changes" if record.get("git_dirty") else ""
        lines.append(f"code: commit {record['git_commit']}{changed}")
    if (seconds := record.get("evaluation_seconds")) is not None:
        lines.append(f"this evaluation took {duration(seconds)}")
    return "\n".join(["## Environment", "", *(f"- {escape(line)}" for line in lines), ""])


def _limitations(config: Record) -> str:
    data = escape(_dataset(config)[1])
    return f"""\
## Limitations

- Trained on one data set, {data}, and meant for images like its own: the same size,
  the same kinds of things. Whatever it is shown, it answers with one of that set's classes.
- The results are of a single run with one seed; another seed gives slightly different ones.
- Its probabilities have not been calibrated, and it has not been examined for bias.
- A model for research and teaching; not for decisions about people.
"""


def _dataset(config: Record) -> tuple[str, str]:
    """What kind of data set it is, in the Hub's words, and its name without any directory."""
    name = str(_section(config, "dataset").get("name", "unknown"))
    if name.startswith("folder:"):
        return "imagefolder", "a folder of images"
    return _HUB_NAMES.get(name, name), name


def _attention(config: Record) -> str:
    return str(_section(config, "model").get("attention", "external"))


def _section(config: Record, name: str) -> Record:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _setting(key: str, value: Any, config: Record) -> str:
    if key == "dataset.name":
        return _dataset(config)[1]
    return str(value)


def _flat(config: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(record: Record, key: str) -> str:
    return RESULTS[key][1](record[key]) if record.get(key) is not None else "–"


def _shown_path(workdir: Path) -> str:
    """The directory as seen from here, or its name alone: no path of this machine."""
    relative = os.path.relpath(workdir)
    return _name(workdir) if relative.startswith("..") else relative


def _name(workdir: Path) -> str:
    return workdir.resolve().name
