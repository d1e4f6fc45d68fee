"""Makes a run of weights of the Keras example "Image classification with EANet".

The source is a `.weights.h5`, `.keras` or `.h5` file, or the directory of TensorFlow's SavedModel
or checkpoint. `python main.py --mode=eval --workdir=DIR` then evaluates the run, and
`python main.py --workdir=DIR` trains it further.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import files
from eanet.checkpoints.manager import Checkpoints
from eanet.cli import Parser, in_checkout, say
from eanet.convert import keras_files
from eanet.convert.keras_architecture import Architecture, architecture_of
from eanet.convert.keras_weights import KerasWeights, infer, to_params
from eanet.data.load import Dataset, load_dataset
from eanet.errors import UserError
from eanet.models.costs import count_parameters
from eanet.training import config_schema
from eanet.training.optimizer import OptimizerOptions, make_optimizer
from eanet.training.run import build_model
from eanet.training.step import init_state
from eanet.workdir import model_record
from eanet.workdir.claim import claimed
from eanet.workdir.model_record import ModelRecord

# Statistics of one data set's parts differ by less, in units of the deviation.
_SAME_STATISTICS = 0.02

Log = Callable[[str], object]
Numbers = Sequence[float] | np.ndarray


def import_weights(
    source: str | Path,
    workdir: Path,
    config: ConfigDict,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    log: Log = print,
) -> Architecture:
    """Writes a run whose only checkpoint, of step 0, has the weights of a Keras file.

    The config holds what the weights do not say; its `model` is changed to what they do say. Height
    and width, and channels, are needed where the shapes leave them open. Mean and deviation, on the
    scale 0..255, one value or one a channel, are those by which the weights expect images
    normalised; by default those of the file, or else of the data set's training images.

    Raises:
      UserError: the file is damaged or does not fit model or data set, or the workdir is taken.
        Then nothing has been written.
    """
    config_schema.check(config)
    weights = keras_files.read(source)
    architecture = infer(weights, image_size=image_size, channels=channels)
    params = to_params(weights, architecture)
    log(f"{weights.source}: {architecture}, {count_parameters(params):,} parameters")
    config.model.update(architecture.model_options())
    config.model.update(norm="double", final_norm=False, param_dtype="float32")
    architecture_of(config.model, architecture.num_classes, architecture.image_shape)  # or refuses
    dataset = _dataset(weights.source, architecture, config, log)
    mean, std = _normalization(weights, dataset, (mean, std), architecture.image_shape[2], log)
    if dataset is None:
        log("class names are not known, so classes are numbers")
        class_names = tuple(map(str, range(architecture.num_classes)))
    else:
        class_names = dataset.class_names
    record = ModelRecord(class_names, architecture.image_shape, mean, std)
    _write_run(workdir, config, record, params, log)
    files.write_json(workdir / "keras_import.json", {"source": str(source)})  # for people
    return architecture


def _write_run(
    workdir: Path, config: ConfigDict, record: ModelRecord, params: Any, log: Log
) -> None:
    """Writes a run whose only checkpoint has these parameters; training goes on there."""
    options = OptimizerOptions(**config.optimizer)
    kernels = build_model(config, len(record.class_names), record.image_shape).kernels
    # The learning rate does not change the form of the state.
    schedule = optax.constant_schedule(0.0)
    optimizer = make_optimizer(options, schedule, kernels, depth=config.model.depth)
    state = init_state(jax.tree.map(jnp.asarray, params), optimizer, ema=options.ema_decay > 0)
    values = dict(config_lib.flatten(config))
    with (
        claimed(workdir, config, log),
        Checkpoints(workdir / "checkpoints", log=log, config=values) as checkpoints,
    ):
        if checkpoints.steps():
            raise UserError(f"{workdir} holds a run already; choose another --workdir")
        model_record.write(workdir, record)
        (workdir / "metrics.jsonl").touch()  # the log of a run without a step
        checkpoints.save(0, state)


def _dataset(
    source: str, architecture: Architecture, config: ConfigDict, log: Log
) -> Dataset | None:
    """The data set of the config, None where it cannot be loaded; refused with other images."""
    try:
        dataset = load_dataset(seed=config.seed, log=log, **config.dataset)
    except UserError as error:
        log(f"not compared with the data set, which cannot be loaded: {error}")
        return None
    here = (*dataset.image_shape, dataset.num_classes)
    there = (*architecture.image_shape, architecture.num_classes)
    if here != there:
        raise UserError(
            f"{source} is for images of {'x'.join(map(str, there[:3]))} and {there[3]} "
            f"classes, but {dataset.name} has {'x'.join(map(str, here[:3]))} and {here[3]}; "
            "choose another --dataset, or correct --image_size or --channels"
        )
    return dataset


def _normalization(
    weights: KerasWeights, dataset: Dataset | None, asked: tuple[Any, Any], channels: int, log: Log
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel: asked for, of the file, or of the data set."""
    own: tuple[Any, Any] = weights.statistics or (None, None)
    if weights.statistics is None and dataset is not None:
        own = dataset.mean, dataset.std
        if any(values is None for values in asked):
            log(f"{weights.source} has no normalisation: that of {dataset.name} is taken")
    given = [mine if mine is not None else its for mine, its in zip(asked, own, strict=True)]
    if any(values is None for values in given):
        raise UserError(
            f"{weights.source} has no normalisation: give --mean and --std of the images, from 0 "
            "to 255, or a data set that can be loaded"
        )
    if not {len(values) for values in given} <= {1, channels}:
        raise UserError(
            f"mean and deviation have {len(given[0])} and {len(given[1])} values, but images have "
            f"{channels} channels; correct --mean, --std or --channels"
        )
    mean, std = (np.broadcast_to(np.asarray(x, np.float64), channels) for x in given)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise UserError(f"deviations must be above 0 and means finite, not {std} and {mean}")
    log(f"normalisation: mean {_shown(mean)}, deviation {_shown(std)}")
    if dataset is not None:
        offsets = np.abs([mean - dataset.mean, std - dataset.std]) / dataset.std
        if offsets.max() > _SAME_STATISTICS:
            log(
                f"warning: images of {dataset.name} have mean {_shown(dataset.mean)}, deviation "
                f"{_shown(dataset.std)}: the weights were trained on others, or on another scale "
                "than 0..255 (see --mean and --std)"
            )
    return tuple(mean.tolist()), tuple(std.tolist())


def _shown(values: np.ndarray) -> str:
    return "[" + " ".join(f"{value:.2f}" for value in values) + "]"


def main(arguments: list[str], prog: str) -> None:
    """The command `import-keras`."""
    parser = Parser(prog, __doc__)
    add_source(parser)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, metavar="DIR", help="of the run to write")
    add("--config", metavar="FILE", help="for all that weights do not tell")
    add("--dataset", metavar="NAME", help="default: that of the config")
    add("--data_dir", metavar="DIR", help="of prepared TFDS data")
    add("--mean", type=_numbers, metavar="R,G,B", help="of the training images, 0..255")
    add("--std", type=_numbers, metavar="R,G,B", help="their standard deviation")
    options = vars(parser.parse_args(arguments))
    config_file = options.pop("config") or in_checkout(
        "configs/eanet_cifar100.py", "give --config=FILE"
    )
    config = config_lib.load(str(config_file))
    for key, name in (("name", "dataset"), ("data_dir", "data_dir")):
        if (value := options.pop(name)) is not None:
            config.dataset[key] = value
    import_weights(config=config, log=say, **options)
    say(f"evaluate it: python main.py --mode=eval --workdir={options['workdir']}")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Which weights, and what their shapes may leave open: the arguments of `read` and `infer`."""
    parser.add_argument("source", help="weight file, or directory of TensorFlow's form")
    open_ = "where the shapes do not tell"
    parser.add_argument("--image_size", type=_size, metavar="HEIGHTxWIDTH", help=open_)
    parser.add_argument("--channels", type=int, metavar="C", help=f"of the images, {open_}")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"height x width in pixels, as in 32x48, not {text!r}")
    return int(match[1]), int(match[2])


def _numbers(text: str) -> Any:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers with commas between, not {text!r}") from None
