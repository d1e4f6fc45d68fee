"""What a person calls a data set, a model and a run: the words of titles."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_DATA = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "scikit-learn's digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
}
_MODELS = {"external": "EANet", "self": "ViT"}  # by their attention
SPLITS = {"train": "training", "val": "validation", "test": "test"}


def of_data(name: str) -> str:
    """A data set by its name in the config: "cifar100" is "CIFAR-100"; of a folder its name."""
    if name.startswith("folder:"):
        return PurePath(name.removeprefix("folder:")).name or name
    return _DATA.get(name, name)


def of_model(attention: str) -> str:
    """The model with an attention, by its name in the config."""
    return _MODELS.get(attention, f"Transformer with {attention.replace('_', ' ')} attention")


def of_run(config: Mapping[str, Any]) -> str:
    """Model and data of a run, by full key of its config, as in "model.attention"."""
    data = of_data(str(config["dataset.name"]))
    return f"{of_model(str(config['model.attention']))} on {data}"
