import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import eanet
from eanet import config as config_lib
from eanet.errors import UserError
from eanet.workdir.claim import LOCK, claimed

ROOT = Path(__file__).parents[2]
CONFIG = ConfigDict({"model": {"depth": 2}})

HOLDER = """
import sys, time
from pathlib import Path
from ml_collections import ConfigDict
from eanet.workdir.claim import claimed
with claimed(Path(sys.argv[1]), ConfigDict({"model": {"depth": 2}}), print):
    print("claimed", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has claimed `tmp_path / "run"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.communicate()


def fail(line):
    raise AssertionError(line)


def test_a_workdir_in_use_is_refused_and_its_user_named(tmp_path, holder):
    with pytest.raises(UserError) as refusal, claimed(tmp_path / "run", CONFIG, fail):
        pass
    message = str(refusal.value)
    for part in (str(tmp_path / "run"), f"process {holder.pid}", socket.gethostname(), "since 20"):
        assert part in message
    assert holder.poll() is None


def test_the_claim_of_a_dead_process_is_taken_over_and_said_so(tmp_path, holder):
    holder.kill()
    holder.wait()
    said = []
    with claimed(tmp_path / "run", CONFIG, said.append):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert len(said) == 1 and f"process {holder.pid}" in said[0] and "taking over" in said[0]


@pytest.mark.parametrize("error", [None, KeyError])
def test_a_claim_that_ended_in_order_leaves_nothing_to_say(tmp_path, error):
    try:
        with claimed(tmp_path / "run", CONFIG, fail):
            if error:
                raise error
    except KeyError:
        pass
    with claimed(tmp_path / "run", CONFIG, fail):
        assert json.loads((tmp_path / "run/config.json").read_text()) == {"model": {"depth": 2}}


def test_a_lock_file_that_says_nonsense_is_no_obstacle(tmp_path):
    (tmp_path / "run").mkdir()
    for content in ("", "{", "[]", '{"pid": 3}', "\x00" * 100):
        (tmp_path / "run" / LOCK).write_text(content)
        with claimed(tmp_path / "run", CONFIG, fail):
            pass


def test_a_stopped_process_still_holds_its_claim(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError), claimed(tmp_path / "run", CONFIG, fail):
        pass
    holder.send_signal(signal.SIGCONT)


def test_another_config_is_refused_with_its_keys_and_changes_nothing(tmp_path):
    with claimed(tmp_path / "run", CONFIG, fail):
        pass
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = ConfigDict({"model": {"depth": 3}})
    with (
        pytest.raises(UserError, match=r"model\.depth is 2 there, 3 here"),
        claimed(tmp_path / "run", other, fail),
    ):
        pass
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_run_that_is_older_than_a_key_is_no_run_of_another_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    today = config_lib.filled(CONFIG)
    assert "implementation" in today.model
    for config in (today, CONFIG):
        with claimed(tmp_path, config, fail):
            pass
    assert not (tmp_path / "run.json").exists()  # it is not known who wrote it
    other = config_lib.override(today, {"model.implementation": "plain"})
    told = r"written by version before .*model\.implementation is 'fast' there, 'plain' here"
    with pytest.raises(UserError, match=told), claimed(tmp_path, other, fail):
        pass


def test_a_claim_records_which_version_it_was(tmp_path):
    with claimed(tmp_path, CONFIG, fail):
        record = json.loads((tmp_path / "run.json").read_text())
    assert record["version"] == eanet.__version__
    (tmp_path / "config.json").write_text('{"model": {"depth": 4}}')
    told = r"config\.json is not what was written"
    with pytest.raises(UserError, match=told), claimed(tmp_path, CONFIG, fail):
        pass


def test_checkpoints_without_a_config_are_left_alone(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with (
        pytest.raises(UserError, match=r"no config\.json"),
        claimed(tmp_path / "run", CONFIG, fail),
    ):
        pass
    assert not (tmp_path / "run" / LOCK).exists()
