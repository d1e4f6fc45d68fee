import json
import math
import platform
import re
import socket
import subprocess

import numpy as np
import pytest

from eanet import environment as environment_lib
from eanet.environment import environment
from eanet.errors import UserError
from eanet.files import read_record
from eanet.workdir.results import write_results

RESULTS = {"loss": np.float32(2.5), "accuracy": 0.44, "num_examples": np.int64(10_000), "step": 7}


@pytest.fixture(autouse=True)
def forget_commit():
    environment_lib._git_state.cache_clear()
    yield
    environment_lib._git_state.cache_clear()


def test_results_hold_what_was_measured_and_where(tmp_path):
    path = write_results(tmp_path, "test", {**RESULTS, "top5_accuracy": math.nan})
    assert path == tmp_path / "results_test.json"
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert record["split"] == "test"
    assert record["loss"] == 2.5 and record["num_examples"] == 10_000
    assert record["top5_accuracy"] is None
    assert record["versions"]["python"] == platform.python_version()
    assert {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} < record["versions"].keys()
    assert "cpu" in record["device"].lower()
    assert read_record(path) == {k: v for k, v in record.items() if k != "sha256"}
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_of_the_host_is_not_recorded(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "secret-host")
    for name in (socket.gethostname(), "secret-host"):
        assert name not in json.dumps(environment())


def test_commit_and_whether_the_code_differs_from_it(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *identity, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    source = tmp_path / "report.py"
    source.write_text("")
    monkeypatch.setattr(environment_lib, "__file__", str(source))

    def state():
        environment_lib._git_state.cache_clear()
        record = environment()
        return record["git_commit"], record["git_dirty"]

    assert state() == (None, None)
    git("init", "-q")
    assert state() == (None, None)  # a checkout, but not of this file
    git("add", "report.py")
    git("commit", "-q", "-m", "first")
    (tmp_path / "notes").touch()  # untracked: no change of the code
    assert state() == (git("rev-parse", "HEAD"), False)
    source.write_text("changed = True")
    assert state() == (git("rev-parse", "HEAD"), True)
    monkeypatch.setenv("PATH", "")
    assert state() == (None, None)


def test_results_that_cannot_be_written_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*results_val\.json: ") as caught:
        write_results(tmp_path / "missing", "val", RESULTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_record_is_one_clear_line(tmp_path, content):
    (tmp_path / "results_test.json").write_bytes(content)
    with pytest.raises(UserError, match="cannot read") as caught:
        read_record(tmp_path / "results_test.json")
    assert "\n" not in str(caught.value)
    assert read_record(tmp_path / "results_val.json") is None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "results_test.json"),
        ({"checkpoint": "latest"}, "results_test_latest.json"),
        ({"checkpoint": "39"}, "results_test_step_39.json"),
        ({"other": "digits"}, "results_test_on_digits.json"),
        ({"other": "folder:/a/b c/"}, "results_test_on_b-c-DIGEST.json"),
        ({"other": "folder:/\x1b[31m\\é"}, "results_test_on_-31m--DIGEST.json"),
        (
            {"other": "name/config:1.0.0", "checkpoint": "7"},
            "results_test_step_7_on_name-config-1.0.0-DIGEST.json",
        ),
        ({"other": "x" * 300}, f"results_test_on_{'x' * 60}-DIGEST.json"),
    ],
)
def test_only_the_best_on_the_own_data_has_the_name_that_reports_read(tmp_path, arguments, name):
    path = write_results(tmp_path, "test", RESULTS, **arguments)
    assert path.parent == tmp_path and path.exists()
    assert re.sub("-[0-9a-f]{8}[.]", "-DIGEST.", path.name) == name


def test_data_sets_that_look_alike_have_results_of_their_own(tmp_path):
    names = ["folder:/a/new", "folder:/b/new", "folder:/x/猫", "folder:/x/犬", "cifar10:3.0.2",
             "cifar10/3.0.2", "x" * 61, "x" * 62, "new", "folder:new"]  # fmt: skip
    paths = {write_results(tmp_path, "test", RESULTS, other=name) for name in names}
    assert len(paths) == len(names)
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    same = [f"folder:{tmp_path / each}" for each in ("here", "link", "here/.")]
    assert len({write_results(tmp_path, "test", RESULTS, other=name) for name in same}) == 1


def test_an_evaluation_that_began_earlier_does_not_undo_a_later_one(tmp_path):
    def step():
        return read_record(tmp_path / "results_test.json")["step"]

    data = {"fingerprint": "f"}
    write_results(tmp_path, "test", RESULTS | data | {"step": 9})
    assert write_results(tmp_path, "test", RESULTS | data, final=False) is None and step() == 9
    for later in ({"step": 9}, {"step": 12}):
        assert write_results(tmp_path, "test", RESULTS | data | later, final=False)
    assert step() == 12
    # The end of training counts, whatever is there; so does an evaluation on other data.
    assert write_results(tmp_path, "test", RESULTS | data) and step() == 7
    write_results(tmp_path, "test", RESULTS | data | {"step": 9})
    assert write_results(tmp_path, "test", RESULTS | {"fingerprint": "g"}, final=False)
    assert step() == 7


def test_damaged_results_are_replaced(tmp_path):
    (tmp_path / "results_test.json").write_bytes(b'{"step": 9')
    assert write_results(tmp_path, "test", RESULTS, final=False)
