"""What training on ImageNet takes, by a cost model that is fitted to recorded speeds.

python -m docs.plan_imagenet    # prints the tables of docs/imagenet.md

An image takes the time of its products, six FLOP for each multiply-add of the forward pass, and
times in proportion to the values of attention, `depth · N · H · S`, and to those of the tokens,
`depth · N · d`: what norms, softmax, GELU and dropout pass over.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from scipy.optimize import nnls

from eanet.config import override
from eanet.models import costs
from eanet.training.run import build_model

HERE = Path(__file__).parent
IMAGES, EPOCHS, DEVICES = 1_281_167, 300, 8
# Recorded training speeds: the record, its case, who, and what it changes of the CIFAR-100 config.
RECORDS = (
    *(
        ("memory_sizes", "memory_sizes", f"memory_size {units}", {"memory_size": units})
        for units in (4, 16, 64, 256)
    ),
    *(("settings", "depths", f"depth {n}", {"depth": n}) for n in (8, 32)),
    ("self_attention", "self_attention", "eanet", {"attention": "self", "num_heads": 4}),
    ("self_attention_1024", "self_attention", "eanet",
     {"attention": "self", "num_heads": 4, "patch_size": 1}),
)  # fmt: skip
CONFIGS = {"imagenet_eamlp7": 384, "imagenet_eanet": 224}  # side of the images


class Device(NamedTuple):
    """What a vendor states of a device, and what an hour of it is assumed to cost."""

    name: str
    products: float  # of bfloat16, FLOP/s
    memory: float  # byte/s
    price: float  # dollars an hour


DEVICE = (
    Device("A100 80 GB", 312e12, 2.0e12, 2.0),
    Device("H100 80 GB", 989e12, 3.35e12, 3.0),
    Device("TPU v5e", 197e12, 0.82e12, 1.2),
)
# What of these figures a program reaches, and how often it reads or writes each value, of 4 bytes,
# in a training step: assumed.
REACHED_PRODUCTS, REACHED_MEMORY, PASSES_ATTENTION, PASSES_TOKENS = 0.3, 0.6, 12, 36


class Work(NamedTuple):
    """Of a training step, for each image."""

    flops: float
    attention_values: float
    token_values: float


def work(config: ConfigDict, classes: int, side: int) -> Work:
    """What the config's model computes."""
    model = build_model(config, classes, (side, side, 3)).abstract
    _, macs = costs.totals(costs.summarize(model))
    tokens, embed_dim = model.patch_embed.position_embedding.shape
    of_each = config.model.memory_size if config.model.attention == "external" else tokens
    attention = config.model.num_heads * of_each
    return Work(6.0 * macs, *(model.depth * tokens * each for each in (attention, embed_dim)))


def recorded() -> tuple[list[str], list[Work], np.ndarray]:
    """Names, work and images/s of the recorded cases."""
    base = importlib.import_module("configs.eanet_cifar100").get_config()
    names, works, speeds = [], [], []
    for directory, case, who, changes in RECORDS:
        record = json.loads((HERE / f"performance/{directory}/throughput.json").read_text())
        speeds.append(record["cases"][case]["contestants"][who]["median"])
        config = override(base, {f"model.{key}": value for key, value in changes.items()})
        works.append(work(config, 100, 32))
        names.append(", ".join(f"{key}={value}" for key, value in changes.items()))
    return names, works, np.array(speeds)


def fit(works: Sequence[Work], speeds: np.ndarray) -> np.ndarray:
    """Seconds for each kind of work, by least squares of the relative errors; none negative."""
    scaled = np.array(works) * speeds[:, None]
    scale = scaled.mean(axis=0)
    found, _ = nnls(scaled / scale, np.ones(len(speeds)))
    return found / scale


def predicted(works: Sequence[Work], seconds: np.ndarray) -> np.ndarray:
    """Images/s."""
    return 1 / (np.array(works) @ seconds)


def seconds_on(device: Device) -> np.ndarray:
    """As `fit` gives them, but assumed."""
    value = 4 / (REACHED_MEMORY * device.memory)
    flop = 1 / (REACHED_PRODUCTS * device.products)
    return np.array([flop, PASSES_ATTENTION * value, PASSES_TOKENS * value])


def check_table() -> str:
    """The recorded speeds beside those of the model, each fitted to all cases but its own."""
    names, works, speeds = recorded()
    lines = ["| case | measured, images/s | by the model | ratio |", "| --- | --- | --- | --- |"]
    for index, name in enumerate(names):
        others = [each for each in range(len(names)) if each != index]
        seconds = fit([works[each] for each in others], speeds[others])
        (own,) = predicted([works[index]], seconds)
        lines.append(f"| {name} | {speeds[index]:.1f} | {own:.1f} | {own / speeds[index]:.2f} |")
    return "\n".join(lines)


def plan_table() -> str:
    """Speed, hours, memory and cost of each config on eight of each device."""
    lines = [
        "| config | 8 × | images/s | hours | memory of a device, GB | dollars |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, side in CONFIGS.items():
        config: Any = importlib.import_module(f"configs.{name}").get_config()
        own = work(config, 1000, side)
        model = build_model(config, 1000, (side, side, 3)).abstract
        share = config.batch_size // DEVICES
        taken = share * costs.image_bytes(model, training=True)
        taken += costs.batch_bytes(share, (side, side, 3))
        for device in DEVICE:
            speed = DEVICES * predicted([own], seconds_on(device))[0]
            hours = EPOCHS * IMAGES / speed / 3600
            lines.append(
                f"| {name} | {device.name} | {speed:,.0f} | {hours:.1f} | {taken / 1e9:.1f} | "
                f"{hours * DEVICES * device.price:,.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    _, all_works, all_speeds = recorded()
    flop, attention, token = fit(all_works, all_speeds)
    print(f"{1e-9 / flop:.0f} GFLOP/s; {1e9 * attention:.1f} and {1e9 * token:.1f} ns a value")
    print(check_table(), plan_table(), sep="\n\n")
