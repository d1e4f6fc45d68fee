"""`README.md` of a run: a model card as Hugging Face reads it, filled from what was recorded."""

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eanet import files
from eanet.display.hub_metadata import Record, attention_of, dataset_of, front_matter
from eanet.display.markdown import escape, table
from eanet.display.numbers import RESULTS, duration, epochs, human, percent, summary
from eanet.errors import printable
from eanet.workdir import log, model_record, seeds
from eanet.workdir.model_record import SPLITS, ModelRecord
from eanet.workdir.results import read_results, results_name

_SPLITS = {"test": "test", "val": "validation", "train": "train"}
_COLUMNS = ("accuracy", "top5_accuracy", "loss", "num_examples", "step")
_PICTURES = {"confusion.png": "Confusions", "calibration.png": "Calibration"}
_MEASURES = ("balanced_accuracy", "ece")  # columns where they were measured
_DEFINITIONS = {
    "accuracy": "share of the images whose class is the one of highest probability",
    "top5_accuracy": "share of the images whose class is among the five of highest probability",
    "loss": "mean cross-entropy in nats, with the label smoothing of training",
    "num_examples": "n, of which each counts once",
    "step": "optimizer steps of training before it; of several checkpoints the one that was best "
    "on validation",
    "balanced_accuracy": "mean of the accuracies of the single classes, each counting alike",
    "ece": "images are put into 15 equal bins by the probability of their prediction; the mean "
    "over the images of how far accuracy and mean probability of their bin lie apart",
}
_UNDESCRIBED = """\
Its blocks mix tokens by the attention *{}*; the project is about *external attention*
([Guo et al., 2021](https://arxiv.org/abs/2105.02358))."""


def write_model_card(
    workdir: str | Path,
    config: Record,
    attention: str = "",
    among: Iterable[Path] | None = None,
) -> Path:
    """Writes `README.md` of a run, see `model_card`; returns its path.

    Raises:
      UserError: a damaged record, or the card cannot be written.
    """
    workdir = Path(workdir)
    return files.write(workdir / "README.md", model_card(workdir, config, attention, among=among))


def model_card(
    workdir: Path,
    config: Record,
    attention: str = "",
    repository: str | None = None,
    step: int | None = None,
    among: Iterable[Path] | None = None,
) -> bytes:
    """The card of a run, from its config, model.json, metrics.jsonl and results_*.json.

    What has not been recorded is left out, and results of another checkpoint than the best.

    Args:
      workdir: directory of the run.
      config: by full key, as in "model.memory_size".
      attention: what the run's attention says about itself, see `eanet.models.base.Attention`.
      repository: USER/NAME at the hub, where the card is for that.
      step: of the checkpoint that goes with the card; None for any that was best.
      among: directories of runs that may differ in the seed alone; by default those beside it.

    Raises:
      UserError: a damaged record.
    """
    name = repository.rpartition("/")[2] if repository else workdir.resolve().name
    records = _records(workdir)
    results = _results_of_best(workdir, records, step)
    any_split: Record = next(iter(results.values()), {})
    by_seed = seeds.tested(workdir, among)
    model = model_record.read(workdir)
    sections = [
        front_matter(name, config, results),
        _description(name, config, any_split, attention),
        _use(f"hf:{repository}" if repository else _place(workdir, name)),
        _results(results, _pictures(workdir, results)),
        _over_seeds(config, by_seed),
        _data(config, model),
        _training(config, records),
        _environment(any_split),
        _limitations(config, any_split, len(by_seed)),
    ]
    text = "\n".join(section for section in sections if section)
    return text.encode("utf-8", "replace")


def pictures(workdir: Path, step: int | None = None) -> list[str]:
    """The files that the card shows; none of them has an image of the data set in it."""
    return list(_pictures(workdir, _results_of_best(workdir, _records(workdir), step)))


def _pictures(workdir: Path, results: Mapping[str, Record]) -> dict[str, str]:
    """What they show, by name."""
    shown = {"curves.png": "Loss and accuracy over epochs"}
    for split, name in _SPLITS.items():
        for kind, what in _PICTURES.items():
            file = results_name(split, kind=kind)
            if file in (results.get(name, {}).get("files") or ()):
                shown[file] = f"{what}, {name}"
    return {file: what for file, what in shown.items() if (workdir / file).is_file()}


def _records(workdir: Path) -> list[dict[str, Any]]:
    metrics = workdir / "metrics.jsonl"
    return log.read(metrics) if metrics.exists() else []


def _results_of_best(
    workdir: Path, records: list[dict[str, Any]], step: int | None
) -> dict[str, Record]:
    """Results by the name of their split."""
    return {
        shown: record
        for split, shown in _SPLITS.items()
        if (record := read_results(workdir, split)) is not None
        and log.is_of_best(record, records)
        and step in (None, record.get("step"))
    }


def _description(name: str, config: Record, results: Record, attention: str) -> str:
    about = attention.strip() or _UNDESCRIBED.format(escape(attention_of(config)))
    text = f"# {escape(name)}\n\nA vision transformer. {about}\n"
    parameters, macs = results.get("parameters"), results.get("multiply_adds_per_image")
    if parameters is not None and macs is not None:
        text += (
            f"\nThis model has {parameters:,} parameters and needs {human(macs)} multiply-adds for "
            f"an image. It classifies images as those of {escape(dataset_of(config)[1])}.\n"
        )
    return text


def _results(results: Mapping[str, Record], shown: Mapping[str, str]) -> str:
    images = "".join(f"\n![{what}]({file})\n" for file, what in shown.items())
    if not results:
        return f"## Results\n\nNot evaluated yet.\n{images}"
    measured = [key for key in _MEASURES if any(key in record for record in results.values())]
    columns = (*_COLUMNS, *measured)
    rows = [
        [split]
        + [RESULTS[key][1](record[key]) if record.get(key) is not None else "–" for key in columns]
        for split, record in results.items()
    ]
    text = f"## Results\n\n{table(('split', *(RESULTS[key][0] for key in columns)), rows)}\n"
    text += "".join(f"- {RESULTS[key][0]}: {_DEFINITIONS[key]}\n" for key in columns)
    return text + images


def _over_seeds(config: Record, by_seed: Mapping[int, Record]) -> str:
    """What the seeds have in common; nothing of a single one."""
    if len(by_seed) < 2:
        return ""
    rows = []
    for key in ("accuracy", "top5_accuracy"):
        measured = [record[key] for record in by_seed.values() if record.get(key) is not None]
        if measured:
            over = summary(measured)
            rows.append([RESULTS[key][0], f"{over.percent()} %", str(over.count)])
    return (
        f"### Over {len(by_seed)} seeds\n\nSeeds {', '.join(map(str, by_seed))} of the same "
        f"settings, each trained to its end and tested at its best checkpoint; this is the run of "
        f"seed {config.get(seeds.SEED)}.\n\n"
        + table(("test", "mean ± standard deviation over seeds", "seeds"), rows)
    )


def _data(config: Record, model: ModelRecord | None) -> str:
    text = f"## Data\n\n{escape(dataset_of(config)[1])}"
    if model is None:
        return f"{text}.\n"
    height, width, channels = model.image_shape
    text += f": {len(model.class_names):,} classes, images {height} × {width} × {channels}.\n"
    if config.get("dataset.image_size"):
        text += f"All were resized to that (`{model.resize}`), as is what the model is asked.\n"
    if model.data and model.data.skipped:
        text += f"{model.data.skipped:,} files that could not be read are not among them.\n"
    if model.data:
        splits = model.data.splits
        rows = [(_SPLITS[split], f"{splits[split].examples:,}") for split in SPLITS]
        text += f"\n{table(('split', 'images'), rows)}"
        if model.data.holds_out and splits["val"].examples:
            text += "\nValidation is held out of the training split of the source.\n"
        if model.data.tested_on != "test":
            text += f"\nThe test split is what the source calls {escape(model.data.tested_on)}.\n"
    return text


def _training(config: Record, records: list[dict[str, Any]]) -> str:
    dataset = dataset_of(config)[1]
    text = "## Training\n"
    if records:
        last = max(records, key=lambda record: record["step"])
        epoch = epochs(last["step"], last["epoch"])
        text += f"\nUp to step {last['step']:,}, epoch {epoch}.\n"
    if best := log.best_validation(records):
        accuracy, epoch = percent(best["accuracy"]), epochs(best["step"], best["epoch"])
        text += f"Best validation accuracy: {accuracy}, after epoch {epoch}.\n"
    # Where something lay is no property of the model, and says who trained it.
    shown = {**config, "dataset.name": dataset} if "dataset.name" in config else {**config}
    shown.pop("dataset.data_dir", None)
    if "init_from" in shown:
        shown["init_from"] = Path(str(shown["init_from"])).name
    rows = [(escape(key), escape(str(value))) for key, value in shown.items()]
    return f"{text}\n{table(('setting', 'value'), rows)}"


def _use(place: str) -> str:
    shell, python = printable(shlex.quote(place)), printable(repr(place))
    return f"""\
## Use

In a checkout of the code, with the requirements installed:

    python main.py --mode=predict --workdir={shell} --images=PATH
    python main.py --mode=eval --workdir={shell}

In Python, with images as `uint8[B, H, W, C]` or paths of files:

    import eanet
    probabilities = eanet.load({python}).predict(images)
"""


def _place(workdir: Path, name: str) -> str:
    """The directory as seen from here, or its name alone: no path of this machine."""
    relative = os.path.relpath(workdir)
    return name if relative.startswith("..") else relative


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


def _limitations(config: Record, results: Record, num_seeds: int) -> str:
    dataset = escape(dataset_of(config)[1])
    seed = (
        "The results are of a single run with one seed; another seed gives slightly different ones."
        if num_seeds < 2
        else "The deviation over seeds says nothing of other data, nor of other settings."
    )
    return f"""\
## Limitations

- Trained on one data set, {dataset}, and meant for images like its own: the same size,
  the same kinds of things. Whatever it is shown, it answers with one of that set's classes.
- {seed}
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
