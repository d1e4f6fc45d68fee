"""Brings weights of the Keras example "Image classification with EANet" into a workdir.

python -m eanet.keras_import SOURCE --workdir=DIR [--dataset=NAME]
python -m eanet.keras_import SOURCE --verify

SOURCE is a `.weights.h5`, `.keras` or `.h5` file, or the directory of a TensorFlow SavedModel or
checkpoint. Afterwards `python main.py --mode=eval --workdir=DIR` evaluates it.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.convert import keras_files
from eanet.convert.keras_weights import Architecture, KerasWeights, infer, our_model, to_params
from eanet.data.load import load_dataset
from eanet.errors import UserError
from eanet.files import write_atomically
from eanet.models.costs import count_parameters
from eanet.training import config_schema, step
from eanet.training.optimizer import make_optimizer
from eanet.workdir.claim import claimed

# The record of an import: where the weights came from, and what they expect of the images.
RECORD = "keras_import.json"

_DEFAULT_CONFIG = Path(__file__).parents[1] / "configs" / "eanet_cifar100.py"

# Statistics of one data set's parts differ by less, in units of the standard deviation.
_SAME_STATISTICS = 0.02


def import_weights(
    source: str | Path,
    workdir: Path,
    config: ConfigDict,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    log: Callable[[str], None] = print,
) -> Architecture:
    """Writes a workdir whose only checkpoint, of step 0, has the weights of a Keras file.

    Args:
      source: see `eanet.convert.keras_files.read`.
      workdir: of the new run.
      config: what the weights do not say; its `model` is changed to what they do say.
      image_size: height and width, where the shapes leave them open.
      channels: likewise.
      log: called with one line for everything a person should know.

    Raises:
      UserError: the file is damaged or does not fit model or data set, or the workdir is taken.
        Then nothing has been written.
    """
    config_schema.check(config)
    weights = keras_files.read(source)
    architecture = infer(weights, image_size=image_size, channels=channels)
    params = to_params(weights, architecture)
    log(f"{weights.source}: {describe(architecture)}, {count_parameters(params):,} parameters")
    config.model.update(architecture.model_options())
    config.model.update(norm="double", final_norm=False, param_dtype="float32")
    _compare_with_dataset(weights, architecture, config, log)
    with (
        claimed(workdir, config, log),
        Checkpoints(workdir / "checkpoints", log=log) as checkpoints,
    ):
        if checkpoints.steps():
            raise UserError(f"{workdir} holds a run already; choose another --workdir")
        record = {"source": str(source), "normalization": _normalization(weights)}
        write_atomically(workdir / RECORD, (json.dumps(record, indent=2) + "\n").encode())
        (workdir / "metrics.jsonl").touch()  # the log of a run without a step
        checkpoints.save(0, _state(params, architecture, config))
    return architecture


def describe(architecture: Architecture) -> str:
    """The sizes of a model in one line."""
    height, width, channels = architecture.image_shape
    memory = f"S {architecture.memory_size}, " if architecture.memory_size else ""
    return (
        f"{architecture.attention} attention, images {height}x{width}x{channels}, patch "
        f"{architecture.patch_size}, d {architecture.embed_dim}, {architecture.depth} blocks, "
        f"{architecture.num_heads} heads of {architecture.head_dim}, {memory}"
        f"MLP {architecture.mlp_dim}, {architecture.num_classes} classes"
    )


def _normalization(weights: KerasWeights) -> dict[str, list[float]] | None:
    if weights.mean is None or weights.variance is None:
        return None
    return {"mean": weights.mean.tolist(), "variance": weights.variance.tolist()}


def optimizer_of(config: ConfigDict, kernels: Any) -> optax.GradientTransformation:
    """The optimizer of a config as far as it shapes the state: with a constant learning rate."""
    options = config.optimizer.to_dict()
    del options["schedule"], options["warmup_epochs"], options["ema_decay"]
    schedule = optax.constant_schedule(options.pop("learning_rate"))
    return make_optimizer(options.pop("name"), schedule, matrices=kernels, **options)


def _state(params: Any, architecture: Architecture, config: ConfigDict) -> step.TrainState:
    return step.init_state(
        jax.tree.map(jnp.asarray, params),
        optimizer_of(config, our_model(architecture).kernels),
        ema=config.optimizer.ema_decay > 0,
    )


def _compare_with_dataset(
    weights: KerasWeights,
    architecture: Architecture,
    config: ConfigDict,
    log: Callable[[str], None],
) -> None:
    """Refuses a data set of other images; says how its statistics differ from the file's."""
    try:
        dataset = load_dataset(seed=config.seed, log=log, **config.dataset)
    except UserError as error:
        log(f"not compared with the data set, which cannot be loaded: {error}")
        return
    here = (*dataset.image_shape, dataset.num_classes)
    there = (*architecture.image_shape, architecture.num_classes)
    if here != there:
        raise UserError(
            f"{weights.source} is for images of {'x'.join(map(str, there[:3]))} and {there[3]} "
            f"classes, but {dataset.name} has {'x'.join(map(str, here[:3]))} and {here[3]}; "
            "choose another --dataset, or correct --image_size or --channels"
        )
    if weights.mean is None or weights.variance is None:
        log(
            f"the file has no Normalization layer; evaluation normalises by mean and deviation of "
            f"the training images of {dataset.name}"
        )
        return
    std = np.sqrt(weights.variance)
    offset = np.max(np.abs(weights.mean - dataset.mean) / dataset.std)
    scale = np.max(np.abs(std / dataset.std - 1.0))
    log(
        f"normalisation: mean {_numbers(weights.mean)} deviation {_numbers(std)} in the file, "
        f"{_numbers(dataset.mean)} and {_numbers(dataset.std)} here: values differ by up to "
        f"{offset:.2%} of the deviation, their scale by up to {scale:.2%}"
    )
    if max(offset, scale) > _SAME_STATISTICS:
        log(
            "warning: the weights were trained on other images, or on another scale than 0..255 "
            "of the same; results will differ from those in Keras"
        )


def _numbers(values: np.ndarray) -> str:
    return "[" + " ".join(f"{value:.2f}" for value in values) + "]"


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eanet.keras_import", description="Import weights of a Keras EANet."
    )
    parser.add_argument("source", help="weight file, or directory of TensorFlow's form")
    parser.add_argument("--workdir", help="directory of the run to write")
    parser.add_argument(
        "--config", default=str(_DEFAULT_CONFIG), help="for all that weights do not tell"
    )
    parser.add_argument("--dataset", help="name of the data set; default: that of the config")
    parser.add_argument("--data_dir", help="of prepared TFDS data")
    parser.add_argument("--image_size", help="HEIGHTxWIDTH, where the shapes do not tell")
    parser.add_argument("--channels", type=int, help="of the images, where the shapes do not tell")
    parser.add_argument(
        "--verify", action="store_true", help="compare with Keras, block by block; needs Keras"
    )
    options = parser.parse_args(arguments)
    try:
        sizes = {"image_size": _image_size(options.image_size), "channels": options.channels}
        if options.workdir:
            config = config_lib.load(options.config)
            for key, value in (("name", options.dataset), ("data_dir", options.data_dir)):
                if value is not None:
                    config.dataset[key] = value
            import_weights(options.source, Path(options.workdir), config, **sizes)
            print(f"evaluate it: python main.py --mode=eval --workdir={options.workdir}")
        elif not options.verify:
            raise UserError("say where to with --workdir=DIR, or compare with Keras by --verify")
        if options.verify:
            from eanet.convert.keras_verify import verify  # needs Keras

            return verify(options.source, **sizes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _image_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise UserError(f"--image_size is HEIGHTxWIDTH in pixels, as in 32x48, not {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
