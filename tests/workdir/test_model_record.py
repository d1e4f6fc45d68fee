"""`model.json`: what is written is what is read, and nothing else is taken for it."""

import dataclasses
import json
import math

import numpy as np
import pytest

from eanet import files
from eanet.errors import UserError
from eanet.workdir import model_record
from eanet.workdir.model_record import DataRecord, ModelRecord, SplitRecord

SPLITS = {
    "train": SplitRecord(40, "f1"),
    "val": SplitRecord(10, "f1"),
    "test": SplitRecord(0, "f2"),
}
RECORD = ModelRecord(
    ("a", "\udcff", "é\x1b[31m"),
    (8, 6, 2),
    (float(np.float32(0.1)), 255.0),
    (1.0, 2.5),
    DataRecord("folder:x", "/place/é\udcff", SPLITS, tested_on="validation"),
    bits=12,
)


@pytest.mark.parametrize("record", [RECORD, dataclasses.replace(RECORD, data=None, bits=None)])
def test_what_is_written_is_read(tmp_path, record):
    model_record.write(tmp_path, record)
    assert model_record.read(tmp_path) == record
    mean, std = record.statistics
    assert mean.dtype == std.dtype == np.float32 and mean[0] == np.float32(0.1)


def test_a_run_of_before_has_none(tmp_path):
    assert model_record.read(tmp_path) is None


def test_no_flipped_bit_is_taken_for_another_record(tmp_path):
    model_record.write(tmp_path, RECORD)
    path = tmp_path / "model.json"
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in (1, 16):
            changed = bytearray(content)
            changed[position] ^= bit
            path.write_bytes(changed)
            try:
                assert model_record.read(tmp_path) == RECORD
            except UserError as error:
                assert "model.json" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_names": []}, "class_names"),
        ({"class_names": ["a", "a", "b"]}, "class_names"),
        ({"class_names": "abc"}, "class_names"),
        ({"class_names": ["a", 1, "b"]}, "class_names"),
        ({"image_shape": [8, 8]}, "image_shape"),
        ({"image_shape": [8, 0, 2]}, "image_shape"),
        ({"image_shape": [8, 8.0, 2]}, "image_shape"),
        ({"image_shape": [True, 8, 2]}, "image_shape"),
        ({"image_shape": [10**9, 8, 2]}, "image_shape"),
        ({"mean": [1.0]}, "mean"),
        ({"mean": [1.0, None]}, "mean"),
        ({"mean": [1.0, "2"]}, "mean"),
        ({"std": [1.0, 0.0]}, "std"),
        ({"std": [1.0, -1.0]}, "std"),
        ({"std": 1.0}, "std"),
        ({"bits": 7}, "bits"),
        ({"bits": "12"}, "bits"),
        ({"resize": "stretch"}, "resize"),
        ({"resize": ["refuse"]}, "resize"),
        ({"version": 3}, "version"),
        ({"later": 1}, "later"),
        ({"data": {}}, "splits"),
        ({"data": []}, ""),
        ({"data": {"name": "x", "place": None, "splits": {}}}, "splits"),
        ({"data": {"name": 3, "place": None, "splits": {}}}, "name"),
        ({"data": {"name": "x", "place": 3, "splits": {}}}, "place"),
        ({"data": {"name": "x", "place": "a\0b", "splits": {}}}, "place"),
        ({"data": {"name": "x", "place": None, "splits": {"train": {"examples": 1}}}}, "finger"),
        (
            {
                "data": {
                    "name": "x",
                    "place": "",
                    "splits": {"a": {"examples": -1, "fingerprint": ""}},
                }
            },
            "examples",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, change, told):
    content = json.loads(json.dumps(dataclasses.asdict(RECORD))) | change
    files.write_record(tmp_path / "model.json", content)
    with pytest.raises(UserError) as refusal:
        model_record.read(tmp_path)
    message = str(refusal.value)
    assert told in message and "model.json" in message and "\n" not in message


@pytest.mark.parametrize("missing", ["class_names", "image_shape", "mean", "std"])
def test_what_is_missing_is_named(tmp_path, missing):
    content = json.loads(json.dumps(dataclasses.asdict(RECORD)))
    del content[missing]
    files.write_record(tmp_path / "model.json", content)
    with pytest.raises(UserError, match=missing):
        model_record.read(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(tmp_path, number):
    content = json.dumps(dataclasses.asdict(RECORD)).replace("255.0", number)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError, match="mean"):
        model_record.read(tmp_path)
    assert not math.isfinite(float(number))
