"""Measures how long one image takes in each model of a sweep, and writes `latency.json`.

A sweep measures it at its end, when nothing of its own runs beside.
"""

import statistics
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from eanet import files
from eanet.cli import Parser, say
from eanet.environment import device
from eanet.sweeps import records

_SECONDS = 1.0  # to measure one model for
_CALLS = (10, 200)  # at least, at most


def measure(directory: Path) -> dict[str, Any]:
    """Measures the models of a sweep that have not been measured on this device.

    Returns:
      All of the file: `device`, and `models`, for each, as `records.model_key` names it, the
      median milliseconds of one image.

    Raises:
      UserError: the directory is no sweep's, or the data that say what an image is are missing.
    """
    sweep = records.read_sweep(directory)
    record = sweep.latency
    if record.get("device") != device():
        record = {"device": device(), "models": {}}
    for run in sweep.runs:
        if run.config is None or (key := records.model_key(run.config)) in record["models"]:
            continue
        record["models"][key] = _milliseconds(run.config, directory / run.name)
        files.write_record(directory / "latency.json", record)
    return record


def _milliseconds(config: ConfigDict, workdir: Path) -> float:
    import jax
    import numpy as np

    from eanet.data.load import load_dataset
    from eanet.training.run import build_model
    from eanet.workdir import model_record
    from eanet.workdir.model_record import ModelRecord

    record = model_record.read(workdir) or ModelRecord.of(
        load_dataset(seed=config.seed, log=lambda _: None, **config.dataset)
    )
    model = build_model(config, len(record.class_names), record.image_shape)
    params = jax.jit(model.init)(0)
    predict = jax.jit(model.apply)
    image = jax.device_put(np.zeros((1, *record.image_shape), np.float32))
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
