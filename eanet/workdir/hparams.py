"""The settings of a sweep's runs for TensorBoard: `tensorboard --logdir=DIR`, tab HParams."""

import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from eanet import config as config_lib

# TensorBoard reads the files of a directory in the order of their names and never goes back, so
# this one must come before those that training adds.
_NAME = "events.out.tfevents.-hparams"
_METRICS = ("val/accuracy", "val/top5_accuracy", "val/loss", "train/loss")


def write(workdir: Path, config: ConfigDict, keys: Sequence[str]) -> None:
    """Writes a run's values of `keys` beside its event files, once.

    Raises:
      OSError: the file cannot be written.
    """
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import hparams

    path = workdir / "tensorboard" / _NAME
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    values = dict(config_lib.flatten(config))
    experiment, start, _ = hparams({key: values[key] for key in keys}, dict.fromkeys(_METRICS, 0.0))
    writer = RecordWriter(str(path.absolute()))
    now = time.time()
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for summary in (experiment, start):
        writer.write(Event(wall_time=now, summary=summary).SerializeToString())
    writer.close()
