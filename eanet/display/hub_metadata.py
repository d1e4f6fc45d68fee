"""What the Hugging Face Hub reads of a model card: the YAML at its head."""

from collections.abc import Mapping
from typing import Any

from eanet.display.numbers import RESULTS

# The data sets' names there, where they differ from those of TFDS.
_HUB_NAMES = {
    "cifar100": "uoft-cs/cifar100",
    "cifar10": "uoft-cs/cifar10",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}

Record = Mapping[str, Any]


def front_matter(name: str, config: Record, results: Mapping[str, Record]) -> str:
    """Between two lines of dashes; `results` by the name of their split."""
    import yaml

    kind, dataset = dataset_of(config)
    attention = attention_of(config)
    header: dict[str, Any] = {
        "license": "apache-2.0",
        "library_name": "eanet",
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


def dataset_of(config: Record) -> tuple[str, str]:
    """What kind of data set it is, in the Hub's words, and its name without any directory."""
    name = str(config.get("dataset.name", "unknown"))
    if name.startswith("folder:"):
        return "imagefolder", "a folder of images"
    return _HUB_NAMES.get(name, name), name


def attention_of(config: Record) -> str:
    """Its name in the config."""
    return str(config.get("model.attention", "external"))
