"""What TensorBoard shows of a run: its scalars, and its settings in the tab HParams.

Not by tensorboardX's `SummaryWriter`, which writes from a thread that dies on a full disk and
leaves the training waiting, overwrites the file of a start within the same second, and puts the
host's name into it.

TensorBoard reads the files of a directory in the order of their names and never goes back, so the
settings come before the scalars of the first start, and those before the scalars of the second.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HPARAMS = "events.out.tfevents.-hparams"
# What the report of a sweep says of a run, in a directory of its own beside the scalars: by its
# name there what it is called.
_REPORT = "report"
_REPORTED = {
    "val_accuracy": "validation accuracy of the best checkpoint",
    "test_accuracy": "test accuracy of the chosen setting",
}


class EventFile:
    """Scalars, in a new event file for each start of the run, made with the first of them.

    From `purge_step` on TensorBoard forgets what an earlier start wrote.
    """

    def __init__(self, directory: Path, *, purge_step: int):
        self._directory = directory
        self._purge_step = purge_step
        self._writer: Any = None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records scalars by their tags, flushed on return; raises `OSError`."""
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        try:
            if self._writer is None:
                self._directory.mkdir(exist_ok=True)
                number = len(list(self._directory.glob("events.out.tfevents.*")))
                while (path := self._directory / f"events.out.tfevents.{number:06d}").exists():
                    number += 1
                self._writer = _open(path)
                start = SessionLog(status=SessionLog.START)
                _put(self._writer, step=self._purge_step, session_log=start)
            _put(self._writer, step=step, summary=Summary(value=values))
            self._writer.flush()
        except OSError:
            self._writer = None  # nothing after a torn record can be read: begin another file
            raise

    def close(self) -> None:
        """Closes the file, if one was begun."""
        if self._writer is not None:
            self._writer.close()


def write_hparams(workdir: Path, values: Mapping[str, Any]) -> None:
    """Writes a run's settings, by config key, beside its event files, once; raises `OSError`.

    The tab HParams shows `write_reported` beside them.
    """
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
    from tensorboardX.summary import hparams

    path = workdir / "tensorboard" / _HPARAMS
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    experiment, start, _ = hparams(dict(values), {})
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for tag, name in _REPORTED.items():
        metric = content.experiment.metric_infos.add(display_name=name)
        metric.name.group, metric.name.tag = _REPORT, tag
    plugin.content = content.SerializeToString()
    writer = _open(path)
    for summary in (experiment, start):
        _put(writer, summary=summary)
    writer.close()


def write_reported(workdir: Path, step: int, scalars: Mapping[str, float]) -> None:
    """Replaces what the report of a sweep says of one of its runs; raises `OSError`.

    Args:
      workdir: of the run; nothing is written for one that is not of a sweep.
      step: of the best checkpoint.
      scalars: val_accuracy and, of the chosen setting alone, test_accuracy.
    """
    from tensorboardX.proto.summary_pb2 import Summary

    events = workdir / "tensorboard"
    if not (events / _HPARAMS).exists():
        return
    (events / _REPORT).mkdir(exist_ok=True)
    temporary = events / _REPORT / ".new"
    writer = _open(temporary)
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    _put(writer, step=step, summary=Summary(value=values))
    writer.close()
    temporary.replace(events / _REPORT / "events.out.tfevents.000000")


def _open(path: Path) -> Any:
    from tensorboardX.record_writer import RecordWriter

    writer = RecordWriter(str(path.absolute()))  # a relative "s3:…" would be taken for a cloud
    _put(writer, file_version="brain.Event:2")
    return writer


def _put(writer: Any, **event: Any) -> None:
    from tensorboardX.proto.event_pb2 import Event

    writer.write(Event(wall_time=time.time(), **event).SerializeToString())
