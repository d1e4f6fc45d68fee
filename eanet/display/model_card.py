"""`README.md` of a run: a model card as Hugging Face reads it, filled from what was recorded."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eanet import files
from eanet.display.curves import best_validation
from eanet.display.progress import duration, human, percent
from eanet.errors import UserError
from eanet.files import read_record
from eanet.workdir import log

# The data sets' names at Hugging Face, where they differ from those of TFDS.
_HUB_NAMES = {
    "cifar100": "uoft-cs/cifar100",
    "cifar10": "uoft-cs/cifar10",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}
_SPLITS = {"test": "test", "val": "validation", "train": "train"}
_ATTENTION = {
    "external": """\
A vision transformer whose blocks mix tokens by *external attention*
([Guo et al., 2021](https://arxiv.org/abs/2105.02358)): instead of comparing every token with
every other one, each head compares its tokens with a small memory that is learned and shared by
all images. With token features `U`, a memory of keys `M_k` and one of values `M_v`,

    attention = normalise(U · M_kᵀ),    output = attention · M_v

where `normalise` is, in the form of the paper, a softmax over the tokens followed by division
by the sum over the memory. The cost is linear in the number of tokens.
""",
    "self": """\
A vision transformer with standard multi-head self-attention: the baseline that external
attention ([Guo et al., 2021](https://arxiv.org/abs/2105.02358)) is compared with. With queries,
keys and values `Q`, `K`, `V` of the tokens and heads of width `h`,

    output = softmax(Q · Kᵀ / √h) · V
""",
}

Record = Mapping[str, Any]


def write_model_card(workdir: str | Path) -> Path:
    """Writes the model card of a run, from config.json, metrics.jsonl and results_*.json alone.

    What has not been recorded is left out.

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
    found = {split: read_record(workdir / f"results_{split}.json") for split in _SPLITS}
    results = {split: record for split, record in found.items() if record is not None}
    metrics = workdir / "metrics.jsonl"
    records = log.read(metrics) if metrics.exists() else []

    sections = [
        _front_matter(workdir, config, results),
        _description(workdir, config, results),
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
    names = {"accuracy": "Top-1 accuracy", "top5_accuracy": "Top-5 accuracy", "loss": "Loss"}
    return [
        # The Hub knows the metric "accuracy"; the name tells the two apart.
        {"type": "loss" if key == "loss" else "accuracy", "name": name, "value": record[key]}
        for key, name in names.items()
        if _is_number(record.get(key))
    ]


def _description(workdir: Path, config: Record, results: Mapping[str, Record]) -> str:
    text = f"# {_name(workdir)}\n\n{_ATTENTION.get(_attention(config), '')}"
    sizes = next(iter(results.values()), {})
    if _is_number(sizes.get("parameters")) and _is_number(sizes.get("multiply_adds_per_image")):
        text += (
            f"\nThis model has {sizes['parameters']:,} parameters and needs "
            f"{human(sizes['multiply_adds_per_image'])} multiply-adds for an image. It classifies "
            f"images as those of {_dataset(config)[1]}.\n"
        )
    return text


def _results(workdir: Path, results: Mapping[str, Record]) -> str:
    if not results:
        return "## Results\n\nNot evaluated yet.\n"
    rows = [
        (
            _SPLITS[split],
            _shown(record, "accuracy", percent),
            _shown(record, "top5_accuracy", percent),
            _shown(record, "loss", "{:.4f}".format),
            _shown(record, "num_examples", "{:,}".format),
            _shown(record, "step", "{:,}".format),
        )
        for split, record in results.items()
    ]
    heading = ("split", "top-1 accuracy", "top-5 accuracy", "loss", "images", "checkpoint of step")
    text = f"## Results\n\n{_table(heading, rows)}"
    if (workdir / "curves.png").exists():
        text += "\n![Loss and accuracy over epochs](curves.png)\n"
    return text


def _training(config: Record, records: list[dict[str, Any]]) -> str:
    text = f"## Data and training\n\nTrained on {_dataset(config)[1]}"
    if records:
        last = max(records, key=lambda record: record["step"])
        text += f" up to step {last['step']:,}, epoch {last['epoch']:.4g}"
    text += ".\n"
    if best := best_validation(records):
        accuracy = percent(best["accuracy"])
        text += f"Best validation accuracy: {accuracy}, after epoch {best['epoch']:.4g}.\n"
    # Where the data lay is no property of the model, and says who trained it.
    settings = [(key, value) for key, value in _flat(config) if key != "dataset.data_dir"]
    rows = [(f"`{key}`", _setting(key, value, config)) for key, value in settings]
    return f"{text}\n{_table(('setting', 'value'), rows)}"


def _evaluation(workdir: Path) -> str:
    place = shlex.quote(_shown_path(workdir))
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
        lines.append(f"- device: {record['device']}")
    versions = record.get("versions")
    if isinstance(versions, Mapping):
        lines.append("- " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    if record.get("git_commit"):
        changed = ", with local changes" if record.get("git_dirty") else ""
        lines.append(f"- code: commit {record['git_commit']}{changed}")
    if _is_number(record.get("wall_time_seconds")):
        lines.append(f"- wall time: {duration(record['wall_time_seconds'])}")
    return "## Environment\n\n" + "\n".join(lines) + "\n" if lines else ""


def _limitations(config: Record) -> str:
    return f"""\
## Limitations

- Trained on one data set, {_dataset(config)[1]}, and meant for images like its own: the same size,
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
    return str(value).replace("|", "\\|").replace("\n", " ")


def _flat(config: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shown(record: Record, key: str, show: Any) -> str:
    return show(record[key]) if _is_number(record.get(key)) else "–"


def _shown_path(workdir: Path) -> str:
    """The directory as seen from here, or its name alone: no path of this machine."""
    relative = os.path.relpath(workdir)
    return _name(workdir) if relative.startswith("..") else relative


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e30  # and so finite


def _name(workdir: Path) -> str:
    return workdir.resolve().name
