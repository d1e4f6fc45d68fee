"""Measures how long one image takes in each model of a sweep.

Written to `latency.json`. A sweep measures it at its end, when nothing of its own runs beside.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import files
from eanet.cli import Parser, say
from eanet.environment import device
from eanet.files import read_record
from eanet.sweeps import records

_SECONDS = 1.0  # to measure one model for
_CALLS = (10, 200)  # at least, at most


def measure(directory: Path) -> dict[str, Any]:
    """Measures the models that have not been measured on this device; returns all of the file.

    Args:
      directory: of a sweep.

    Returns:
      device: what was measured on; models: for each, as `model_key` names it, the median
      milliseconds of one image.

    Raises:
      UserError: the directory is no sweep's, or the data that say what an image is are missing.
    """
    path = directory / "latency.json"
    record = read_record(path) or {}
    if record.get("device") != device():
        record = {"device": device(), "models": {}}
    for run in records.read_sweep(directory).runs:
        config_path = directory / run.name / "config.json"
        if not config_path.exists():
            continue
        config = config_lib.from_json(config_path).to_dict()
        key = model_key(config)
        if key not in record["models"]:
            record["models"][key] = _milliseconds(config)
            files.write_atomically(path, files.strict_json(record, indent=1))
    return record


def model_key(config: dict[str, Any]) -> str:
    """What the time depends on: the model and the kind of image."""
    speechless = {"dropout_rate"}  # has no part in a prediction
    values = config_lib.lasting(ConfigDict(config))["model"]
    model = {name: value for name, value in values.items() if name not in speechless}
    return json.dumps({"dataset": config["dataset"]["name"], **model}, sort_keys=True)


def _milliseconds(config: dict[str, Any]) -> float:
    import jax
    import numpy as np

    from eanet.data.load import load_dataset
    from eanet.models.eanet import EANet
    from eanet.models.functional import split_model

    dataset = load_dataset(seed=config["seed"], log=lambda _: None, **config["dataset"])
    model = split_model(
        lambda rngs: EANet(dataset.num_classes, dataset.image_shape, rngs=rngs, **config["model"])
    )
    params = jax.jit(model.init)(0)
    predict = jax.jit(model.apply)
    image = jax.device_put(np.zeros((1, *dataset.image_shape), np.float32))
    for _ in range(3):  # compiles, then warms up
        predict(params, image).block_until_ready()
    times: list[float] = []
    while len(times) < _CALLS[0] or (sum(times) < _SECONDS and len(times) < _CALLS[1]):
        start = time.perf_counter()
        predict(params, image).block_until_ready()
        times.append(time.perf_counter() - start)
    return round(1000 * statistics.median(times), 4)


def main(arguments: list[str], prog: str) -> None:
    """The command `latency`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("directory", type=Path, help="of a sweep")
    directory = parser.parse_args(arguments).directory
    say(f"{directory / 'latency.json'}: {len(measure(directory)['models'])} models")
