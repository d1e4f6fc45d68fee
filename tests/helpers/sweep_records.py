"""What a finished run leaves behind, without the run."""

import json

from configs import testing
from eanet import config as config_lib
from eanet.environment import device
from eanet.workdir import model_record
from eanet.workdir.model_record import DataRecord, ModelRecord, SplitRecord


def finished_run(workdir, *, macs, overrides=None, **results):
    """A run of 2 steps of 64 images at 32 a second, and two validations of 40 images.

    It evaluates 80 images a second, 40 of validation once more and 80 of test, and takes 7 s else.
    """
    workdir.mkdir()
    config = config_lib.override(testing.get_config().lock(), overrides or {})
    (workdir / "config.json").write_bytes(config_lib.to_json(config))
    splits = {name: SplitRecord(n, "f") for name, n in (("train", 64), ("val", 40), ("test", 80))}
    data = DataRecord("digits", None, splits)
    model_record.write(workdir, ModelRecord(("a", "b"), (8, 8, 1), (0.0,), (1.0,), data))
    lines = [
        {"step": step, "epoch": float(step), "split": split} | values
        for step in (1, 2)
        for split, values in (
            ("train", {"images_per_second": 32.0}), ("val", {"accuracy": 0.5, "loss": 1.0})
        )
    ]  # fmt: skip
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "accuracy": 0.5, "step": 2, "num_examples": 80, "evaluation_seconds": 1.0,
        "multiply_adds_per_image": macs, "device": device(), "run_seconds": 4 + 2.5 + 7,
    }  # fmt: skip
    values = {key: value for key, value in (values | results).items() if value is not None}
    (workdir / "results_test.json").write_text(json.dumps(values))
    return config
