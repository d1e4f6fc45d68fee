"""Sweeps with several processes, killed at random; `fake_training.py` in the place of training."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from eanet import host
from eanet.sweeps import records

SIX = "model.memory_size=4,8,16;seed=0..1"


@pytest.fixture
def sweeping(tmp_path):
    """Starts a sweep in a process; those still there at the end of the test are ended."""
    processes = []

    def start(sweep, directory=tmp_path / "sweep", *, storage="", workers=2):
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.helpers.sweep_driver",
                directory,
                storage,
                str(workers),
                sweep,
            ],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"TRACE": str(tmp_path / "trace")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def finish(process, code=0):
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


def trace(tmp_path):
    path = tmp_path / "trace"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def states(directory):
    return {run.name: run.state for run in records.read_sweep(directory).runs}


def in_the_middle(directory):
    """Whether a run that is not the first has begun and, at two epochs a run, is far from its end.

    What is sent then meets a run at work, however late it arrives.
    """
    begun = (directory / "sweep.json").exists()
    runs = records.read_sweep(directory).runs if begun else ()
    states = {run.state for run in runs if run.state != "unfinished" or 0.1 < run.epoch < 0.5}
    return {"done", "unfinished"} <= states


def test_what_goes_wrong_in_one_run_is_recorded_and_stops_no_other(sweeping, tmp_path):
    said = finish(sweeping("seed=0,77,78,1"))
    assert states(tmp_path / "sweep") == {
        "seed=0": "done", "seed=77": "failed", "seed=78": "failed", "seed=1": "done"
    }  # fmt: skip
    counts = Counter(trace(tmp_path))
    assert counts == {"begin seed=0": 1, "end seed=0": 1, "begin seed=1": 1, "end seed=1": 1,
                      "crash seed=78": 3}  # fmt: skip
    assert "seed=77: failed: RuntimeError: RESOURCE_EXHAUSTED: out of memory" in said
    assert "seed=78: failed: killed by SIGKILL, 3 times" in said
    assert "4 runs: 2 done, 2 failed" in said
    # Each worker has its share of the cores.
    cores = len(os.sched_getaffinity(0))
    results = json.loads((tmp_path / "sweep" / "seed=0" / "results_test.json").read_text())
    assert results["cores"] == max(1, cores // 2)


def test_a_sweep_of_which_no_run_succeeds_has_an_exit_code_and_a_line(sweeping):
    said = finish(sweeping("seed=77"), 2)
    assert "error: no run succeeded, 1 of 1 failed; seed=77: RuntimeError" in said
    assert said.rstrip().endswith("seed=77/train.log")


def test_damaged_files_of_one_run_stop_no_other(sweeping, tmp_path):
    said = finish(sweeping("seed=79,0,1,2"))
    assert Counter(trace(tmp_path))["end seed=2"] == 1
    assert "seed=79: failed: cannot read" in said and "4 runs: 3 done, 1 failed" in said


@pytest.mark.slow
def test_ctrl_c_stops_in_order_and_the_same_command_goes_on(sweeping, tmp_path):
    sweep = f"{SIX};num_epochs=2"
    process = sweeping(sweep)
    wait_for(lambda: in_the_middle(tmp_path / "sweep"), process)
    process.send_signal(signal.SIGINT)
    said = finish(process, 130)
    assert said.endswith("sweep interrupted: the same command goes on\n")
    assert "interrupted at epoch 0." in said and "running" not in said.splitlines()[-2]
    stood = states(tmp_path / "sweep")
    before = Counter(stood.values())
    assert before["unfinished"] and before["waiting"]
    # A run that had not come to its first epoch begins anew.
    anew = {f"begin {n}" for n in stood if stood[n] == "waiting"} & set(trace(tmp_path))
    assert not any(line.startswith("overlap") for line in trace(tmp_path))
    finish(sweeping(sweep))
    counts = Counter(line.split()[0] for line in trace(tmp_path))
    assert counts["end"] == 6 and counts["resume"] == before["unfinished"]
    assert counts["begin"] == 6 + len(anew)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1], ids=str)
def test_a_lost_terminal_ends_no_sweep(sweeping, tmp_path, number):
    process = sweeping("seed=0..1")
    wait_for(lambda: trace(tmp_path), process)
    process.send_signal(number)
    assert "2 runs: 2 done" in finish(process)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["", "sqlite:///{}/queue.db"], ids=["journal", "sqlite"])
def test_killed_five_times_it_ends_with_each_run_once(sweeping, tmp_path, storage):
    chance = random.Random(0)
    sweep = "model.memory_size=4,8,16,32,64;seed=0..4;num_epochs=0.4"

    def start():
        return sweeping(sweep, storage=storage.format(tmp_path))

    processes = [start(), start()]
    for _ in range(5):
        lines = len(trace(tmp_path)) + chance.randint(1, 4)
        wait_for(lambda: len(trace(tmp_path)) >= lines, processes[0])  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.3))
        victim = chance.randrange(2)
        processes[victim].kill()
        processes[victim] = start()
    for process in processes:
        assert "25 runs: 25 done" in finish(process)
    counts = Counter(trace(tmp_path))
    names = list(states(tmp_path / "sweep"))
    assert len(names) == 25 and set(states(tmp_path / "sweep").values()) == {"done"}
    for name in names:
        # A run that is killed before its first epoch begins anew.
        assert counts[f"begin {name}"] >= counts[f"end {name}"] == 1
        assert counts[f"overlap {name}"] == 0
    for name in names:  # as if it had not been killed
        metrics = (tmp_path / "sweep" / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in metrics] == list(range(1, 41))


@pytest.fixture(scope="module")
def postgresql():
    """A server of this test's own, on a socket in a temporary directory."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(programs[-1]) if programs else None)
    if initdb is None:
        pytest.skip("needs PostgreSQL's initdb and pg_ctl: apt-get install postgresql")
    # The server refuses to run as root.
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if user:
        shutil.chown(directory, "postgres")

    def run(program, *arguments):
        subprocess.run(
            [Path(initdb).with_name(program), *arguments], check=True, cwd=directory,
            stdout=subprocess.DEVNULL, **user,
        )  # fmt: skip

    data = directory / "data"
    run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
    options = f"-k {directory} -c listen_addresses='' -c fsync=off"
    run("pg_ctl", "-D", data, "-o", options, "-l", directory / "log", "-w", "start")
    yield f"postgresql://postgres@/postgres?host={directory}"
    run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(directory)


@pytest.mark.slow
def test_two_hosts_share_a_queue_in_postgresql(sweeping, tmp_path, postgresql):
    """Each in a directory of its own, so that neither sees the other's files and locks."""
    sweep = f"{SIX};num_epochs=2"
    hosts = [tmp_path / "a" / "sweep", tmp_path / "b" / "sweep"]
    processes = [sweeping(sweep, host, storage=postgresql, workers=1) for host in hosts]
    wait_for(lambda: in_the_middle(hosts[0]), processes[0])
    processes[0].kill()  # the other hears nothing of it any more
    said = finish(processes[1])
    assert "its worker died, waits again" in said and "6 runs: 6 done" in said
    done = [name for host in hosts for name, state in states(host).items() if state == "done"]
    assert set(done) == set(states(hosts[1]))
    assert not any(line.startswith("overlap") for line in trace(tmp_path))
    # The first comes back and finds nothing left to do.
    before = trace(tmp_path)
    assert "6 runs: 6 done" in finish(sweeping(sweep, hosts[0], storage=postgresql))
    assert trace(tmp_path) == before


def test_each_process_has_its_own_cores_or_its_own_device(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 8})
    shares = [host.share(index, 2).cores for index in range(2)]
    assert shares == [{2, 3}, {5, 7, 8}]
    assert [host.share(index, 6).cores for index in range(6)] == [{2}, {2}, {3}, {5}, {7}, {8}]
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    shares = [host.share(index, 2).environment["CUDA_VISIBLE_DEVICES"] for index in range(2)]
    assert shares == ["1", "3"]
    shares = [host.share(index, 5).environment["CUDA_VISIBLE_DEVICES"] for index in range(5)]
    assert shares == ["1", "3", "1", "3", "1"]
    assert host.devices_of_share(2) == 1 and host.devices_of_share(5) == 1 / 3
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(host.UserError, match="one process has all of a TPU"):
        host.share(0, 2)
