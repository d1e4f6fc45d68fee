import json
import math
import os
import resource
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eanet.errors import UserError
from eanet.workdir.log import RunLog, best_validation, is_of_best, read

STEPS = (10, 20, 30)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def write_steps(log, steps):
    for step in steps:
        log.write(step, step / 10, "train", loss=3.0 - step / 100, learning_rate=1e-3)
        log.write(step, step / 10, "val", loss=math.nan, accuracy=step / 100)


def uninterrupted(workdir, steps=STEPS):
    with RunLog(workdir, step=0) as log:
        write_steps(log, steps)
    return (workdir / "metrics.jsonl").read_bytes()


def strict(line):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


def scalars(workdir):
    """What TensorBoard shows: (tag, step) -> values, a restart forgetting later steps."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c

    shown = {}
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            body, data = data[12 : 12 + length], data[8:]
            (checksum,) = struct.unpack("<I", data[4 + length : 8 + length])
            assert checksum == masked_crc32c(body)
            data = data[8 + length :]
            event = Event.FromString(body)
            if event.session_log.status == SessionLog.START:
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                shown.setdefault((value.tag, event.step), []).append(value.simple_value)
    return shown


def test_lines_are_strict_json_with_the_fields_of_a_record(tmp_path):
    with RunLog(tmp_path, step=0) as log:
        log.write(np.int64(5), 0.5, "train", loss=np.float32(0.1), grad_norm=math.inf, skipped=2)
        log.write(5, 0.5, "val", loss=math.nan)
    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    expected = {"step": 5, "epoch": 0.5, "split": "train", "loss": float(np.float32(0.1))}
    assert strict(first) == {**expected, "grad_norm": None, "skipped": 2}
    assert strict(second)["loss"] is None
    assert math.isnan(read(tmp_path / "metrics.jsonl")[1]["loss"])


def test_torn_at_any_byte_is_repaired_and_nothing_repeated_or_lost(tmp_path):
    whole = uninterrupted(tmp_path / "whole")
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "torn" / "metrics.jsonl"
    path.parent.mkdir()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        said = []
        RunLog(path.parent, step=30, say=said.append).close()
        complete = sum(end - 1 <= cut for end in ends)  # the line end alone may be missing
        kept = whole[: ends[complete - 1]] if complete else b""
        assert path.read_bytes() == kept
        assert len(said) == (cut > len(kept))
        assert [path] == list(path.parent.iterdir())
        if cut % 7 == 0:
            with RunLog(path.parent, step=30) as log:
                write_steps(log, STEPS)
            assert path.read_bytes() == whole
            for file in (path.parent / "tensorboard").iterdir():
                file.unlink()
            (path.parent / "tensorboard").rmdir()


@settings(max_examples=40, deadline=None)
@given(kills=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 120)), max_size=4))
def test_a_run_killed_anywhere_ends_with_the_lines_and_scalars_of_one_that_was_not(kills):
    steps = range(1, 7)
    with tempfile.TemporaryDirectory() as name:
        whole = uninterrupted(Path(name) / "whole", steps)
        workdir, saved = Path(name) / "killed", 0
        for lines, torn in kills:
            with RunLog(workdir, step=saved) as log:
                for step in [step for step in steps if step > saved][: lines // 2]:
                    write_steps(log, [step])
                    if step % 2 == 0:  # a checkpoint now and then
                        saved = step
            with open(workdir / "metrics.jsonl", "ab") as file:
                file.write(b'{"step": 65, "epoch": 6.5, "split": "train", "loss": 1.0}'[:torn])
        with RunLog(workdir, step=saved) as log:
            write_steps(log, [step for step in steps if step > saved])
        assert (workdir / "metrics.jsonl").read_bytes() == whole
        shown = scalars(workdir)
        for record in read(workdir / "metrics.jsonl"):
            for key in record.keys() - {"step", "epoch", "split"}:
                values = shown.pop((f"{record['split']}/{key}", record["step"]))
                np.testing.assert_array_equal(values, [np.float32(record[key])])
        assert not shown


def test_a_line_that_exists_is_not_repeated(tmp_path):
    whole = uninterrupted(tmp_path)
    with RunLog(tmp_path, step=30) as log:
        write_steps(log, [30, 30])
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_lines_of_later_steps_go_and_it_is_said(tmp_path):
    uninterrupted(tmp_path)
    said = []
    RunLog(tmp_path, step=10, say=said.append).close()
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [10, 10]
    assert len(said) == 1 and "step 10" in said[0] and "4" in said[0]


def test_damage_in_the_middle_is_set_aside(tmp_path):
    whole = uninterrupted(tmp_path)
    lines = whole.splitlines(keepends=True)
    damaged = b"".join([*lines[:2], b"\xff\x00garbage\n", *lines[2:]])
    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    said = []
    RunLog(tmp_path, step=30, say=said.append).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damaged
    assert len(said) == 1


LINES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"step": 1, "epoch": 1, "split": "val", "loss": NaN}',
            b'{"step": 1, "epoch": NaN, "split": "val"}',
            b'{"step": true, "epoch": 1, "split": "val"}',
            b'{"step": 1e400, "epoch": 1, "split": "val"}',
            b'{"step": 2, "epoch": 1, "split": "val", "loss": "low"}',
            b'{"step": 2, "epoch": 1, "split": "val", "loss": 1' + b"0" * 400 + b"}",
            b'{"step": 2, "epoch": 1, "split": "val", "loss": 1' + b"0" * 5000 + b"}",
            b'{"step": 2, "epoch": 1, "split": "\\ud800", "\\ud800": 1}',
            b'{"step": null, "epoch": 1, "split": "val"}',
        ]
    ),
)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(LINES, max_size=6))
def test_whatever_stands_in_the_file_it_opens_and_leaves_records_only(lines):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "metrics.jsonl"
        path.write_bytes(b"\n".join(lines))
        before = read(path)
        RunLog(name, step=10**9, say=lambda text: None).close()
        for line in path.read_bytes().splitlines():
            assert {"step", "epoch", "split"} <= strict(line).keys()
        np.testing.assert_equal(read(path), before)


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_line(tmp_path):
    whole = uninterrupted(tmp_path)
    log = RunLog(tmp_path, step=30)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limit[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: ") as caught:
            log.write(40, 4.0, "train", loss=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    log.write(40, 4.0, "train", loss=1.0)  # room again
    log.close()
    assert read(tmp_path / "metrics.jsonl")[-1]["step"] == 40


def test_a_workdir_that_is_a_file_and_a_missing_log_are_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        RunLog(tmp_path / "file", step=0)
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "metrics.jsonl")


def test_the_history_of_a_checkpoint_comes_back_and_later_lines_go(tmp_path):
    whole = uninterrupted(tmp_path)
    path = tmp_path / "metrics.jsonl"
    with RunLog(tmp_path, step=30) as log:
        assert log.text().encode() == whole
    first = b"".join(whole.splitlines(keepends=True)[:4])  # up to step 20
    for content in (b"", first[:100], whole, first.replace(b"0.1", b"0.2"), b"words\n" + whole):
        said = []
        path.write_bytes(content)
        RunLog(tmp_path, step=20, history=first.decode(), say=said.append).close()
        assert path.read_bytes() == first and len(said) >= 1
        restored = [line for line in said if "restored from the checkpoint of step 20" in line]
        assert len(restored) == (not content.endswith(whole))
    copies = {copy.read_bytes() for copy in tmp_path.glob("metrics.jsonl.damaged*")}
    assert copies == {first.replace(b"0.1", b"0.2"), b"words\n" + whole}


def test_a_line_that_came_after_the_history_stays(tmp_path):
    with RunLog(tmp_path, step=0) as log:
        log.write(10, 1.0, "train", loss=math.nan)
        history = log.text()
        log.write(10, 1.0, "val", loss=1.0)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    RunLog(tmp_path, step=10, history=history, say=pytest.fail).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_log_removed_under_a_run_is_whole_in_its_history(tmp_path):
    with RunLog(tmp_path, step=0) as log:
        write_steps(log, STEPS[:1])
        (tmp_path / "metrics.jsonl").unlink()
        write_steps(log, STEPS[1:])
        history = log.text()
    RunLog(tmp_path, step=30, history=history, say=lambda line: None).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == uninterrupted(tmp_path / "whole")


def test_what_a_linked_log_leads_to_stays_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for make in (
        lambda path: path.symlink_to(tmp_path / "thesis.txt"),
        lambda path: path.symlink_to(tmp_path / "nothing"),
        os.mkfifo,
    ):
        path = tmp_path / "run" / "metrics.jsonl"
        path.parent.mkdir(exist_ok=True)
        make(path)
        with pytest.raises(UserError, match=r"cannot write .*: not a regular file"):
            RunLog(path.parent, step=0, say=lambda line: None)
        path.unlink()
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    assert not (tmp_path / "nothing").exists()


def test_best_validation_is_the_first_highest_accuracy_that_can_be():
    accuracies = [0.1, 0.3, 0.3, math.nan, 7.0]
    val = [{"step": n, "split": "val", "accuracy": each} for n, each in enumerate(accuracies)]
    train = [{**record, "split": "train", "accuracy": 0.9} for record in val]
    assert best_validation(train + val) == val[1]
    assert best_validation([*train, {"step": 9, "split": "val"}]) is None
    # Of two that are equally good either may have been kept.
    assert [is_of_best({"step": step}, train + val) for step in range(4)] == [
        *(False, True, True, False),
    ]
    assert not is_of_best({}, val) and is_of_best({"step": 3}, train)
