"""Several processes evaluate together: each reads its part of the images, all find the same."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from eanet import devices
from eanet.data.load import load_dataset
from eanet.tools import launch
from eanet.training import evaluation
from eanet.training.batches import normalizer
from eanet.training.evaluation import make_evaluate
from eanet.training.loss import make_loss
from tests.helpers.command_line import MAIN, fork_main
from tests.helpers.training_cases import CLASSES, MEAN, STD, Linear, copied, make_data

pytestmark = pytest.mark.slow

# Of blocks of 16 images: a part of one, one, some of the next for one process or for both.
COUNTS = (1, 15, 16, 17, 29)

_EVALUATES = """
import contextlib, json, sys
from pathlib import Path
from unittest import mock
from eanet import devices
from eanet.cluster.address import address_of
from eanet.cluster.join import joined
from eanet.data.workers import Workers
from tests.cluster.test_evaluation import evaluated, streamed

root, out, coordinator, count, index, _ = (each.split("=")[-1] for each in sys.argv[1:])
read, submit = [], Workers.submit

def noting(self, what, references, *rest):
    if what == "pixels":
        read[-1] += [str(path) for path, *_ in references]
    return submit(self, what, references, *rest)

with (
    joined(True, address_of(coordinator, int(count), int(index)), 30.0) as members,
    mock.patch.object(Workers, "submit", noting),
):
    members.connect(devices.make_mesh(16))
    found = list(evaluated(streamed(root).test, lambda: read.append([])))
    Path(out, f"{index}.json").write_text(json.dumps([read, found]))
"""


def streamed(root):
    return load_dataset(f"folder:{root}", streaming=True, log=lambda _: None)


def evaluated(split, begin=lambda: None):
    """Metrics and logits of the first images of a split, as many as each of `COUNTS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_MOST_IMAGES", 16)
        mesh = devices.make_mesh(16)
        normalize, loss = normalizer(MEAN, STD), make_loss(label_smoothing=0.1)
        evaluate = make_evaluate(Linear().apply, loss, mesh, normalize=normalize, images_at_once=8)
        params = devices.replicate(copied(Linear().init(0)), mesh)
        for count in COUNTS:
            begin()
            logits = np.empty((count, CLASSES), np.float32)
            metrics = evaluate(params, split[:count], logits=logits)
            yield [metrics, logits.tolist()]


def launched(tmp_path, *command):
    said = tmp_path / "said.txt"
    with said.open("wb") as output:
        processes = launch.start([sys.executable, *map(str, command)], 2, output)
    assert launch.outcome(processes) == 0, said.read_text()
    return said.read_text()


def test_each_process_reads_its_images_and_all_find_what_one_does(compiled_quickly, tmp_path):
    data = make_data(max(COUNTS))
    for part in ("train", "test"):
        for number, (pixels, label) in enumerate(zip(data.images, data.labels, strict=True)):
            path = tmp_path / "data" / part / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    launched(tmp_path, "-c", _EVALUATES, tmp_path / "data", tmp_path)
    reads, found = zip(
        *(json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2)), strict=True
    )
    split = streamed(tmp_path / "data").test
    for count, *of_each in zip(COUNTS, *reads, strict=True):
        expected = [str(split.images._references[i][0]) for i in range(count)]
        assert sorted(of_each[0] + of_each[1]) == sorted(expected)
        assert len(of_each[0]) == sum(i % 16 < 8 for i in range(count))
    assert list(found) == [json.loads(json.dumps(list(evaluated(split))))] * 2


def test_eval_by_two_processes_is_that_of_one(one_device_each, trained, tmp_path):
    one, two = (shutil.copytree(trained, tmp_path / name) for name in ("one", "two"))
    alone = fork_main("--mode=eval", "--split=val", f"--workdir={one}")
    assert alone.returncode == 0, alone.stderr
    said = launched(tmp_path, MAIN, "--mode=eval", "--split=val", f"--workdir={two}")
    assert said.count("Results on the val split") == 1 and said.count("recorded in") == 1
    results, expected = (
        json.loads((workdir / "results_val.json").read_text()) for workdir in (two, one)
    )
    assert "in 2 processes" in results["device"]
    for each in (results, expected):
        for name in ("device", "evaluation_seconds", "host_settings", "sha256"):
            each.pop(name)
        each["files"] = {k: v for k, v in each["files"].items() if k.endswith(".csv")}
    assert results == expected and "predictions_val.csv" in results["files"]
