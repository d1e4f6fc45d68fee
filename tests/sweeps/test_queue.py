import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from eanet.errors import UserError
from eanet.sweeps.queue import Lost, Queue, Status
from eanet.sweeps.storage import open_storage
from eanet.workdir import lock as lock_lib

RUNS = {"a": "1", "b": "2", "c": "3"}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def open_queue(directory, place="here", timeout=1e9, runs=RUNS):
    queue = Queue(
        open_storage(None, directory), "sweep", directory / place, heartbeat_timeout=timeout
    )
    queue.enqueue(runs)
    return queue


def state(queue):
    return {name: status.state for name, status in queue.statuses().items()}


def test_runs_are_taken_in_order_once_each_by_whoever_asks(tmp_path):
    queues = [open_queue(tmp_path, place) for place in ("here", "here", "there")]
    assert len(queues[0].study.trials) == 3
    claims = [queue.take() for queue in queues]
    assert [claim.name for claim in claims] == ["a", "b", "c"]
    assert [queue.take() for queue in queues] == [None] * 3
    assert [queue.requeue() for queue in queues] == [[]] * 3
    claims[0].done(0.5)
    claims[1].failed("it diverged")
    claims[2].pruned("worse than others")
    expected = {
        "a": Status(TrialState.COMPLETE),
        "b": Status(TrialState.FAIL, "it diverged"),
        "c": Status(TrialState.PRUNED, "worse than others"),
    }
    assert [queue.statuses() for queue in queues] == [expected] * 3
    assert [queue.take() for queue in queues] == [None] * 3
    assert [queue.requeue() for queue in queues] == [[]] * 3
    assert len(queues[0].study.trials) == 3


def test_two_that_enqueue_at_the_same_time_do_no_harm(tmp_path, monkeypatch):
    queues = [open_queue(tmp_path, place, runs={}) for place in ("here", "there")]
    # Neither sees what the other has added before it has added its own.
    seen = [queue._tries for queue in queues]
    for queue in queues:
        monkeypatch.setattr(queue, "_tries", lambda: {name: [] for name in RUNS})
        queue.enqueue(RUNS)
    for queue, tries in zip(queues, seen, strict=True):
        monkeypatch.setattr(queue, "_tries", tries)
    assert len(queues[0].study.trials) == 6
    claims = [queue.take() for queue in (*queues, queues[0])]
    assert [claim.name for claim in claims] == ["a", "b", "c"] and queues[1].take() is None
    for claim in claims:
        claim.done(1.0)
    assert queues[0].take() is None and set(state(queues[1]).values()) == {TrialState.COMPLETE}


def test_a_run_whose_worker_died_is_taken_by_another(tmp_path):
    here, beside = open_queue(tmp_path), open_queue(tmp_path)
    claim = here.take()
    assert beside.requeue() == []
    claim.lock.close()  # as the system does at the end of the process
    assert beside.requeue() == ["a"] and beside.requeue() == []
    assert state(here)["a"] is TrialState.WAITING
    again = beside.take()
    assert again.name == "a"
    for end in (claim.heartbeat, lambda: claim.done(1.0), lambda: claim.failed("late")):
        with pytest.raises(Lost):
            end()
    again.done(0.5)
    assert state(here)["a"] is TrialState.COMPLETE


def test_what_happens_between_a_look_and_an_act_is_noticed(tmp_path, monkeypatch):
    here, there = open_queue(tmp_path), open_queue(tmp_path, "there", timeout=0.0)
    seen = there._tries()
    claim = here.take()
    with monkeypatch.context() as patch:
        patch.setattr(there, "_tries", lambda: seen)
        assert there.take().name == "b"
    there.requeue()
    seen = there._tries()
    claim.done(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(there, "_tries", lambda: seen)
        assert there.requeue() == []
    # A worker that ends its run while it is being declared dead has ended it.
    claim = here.take()
    here.storage.set_trial_user_attr(claim.trial_id, "ended", {"reason": "died", "again": True})
    claim.done(1.0)
    assert there.requeue() == [] and state(there)[claim.name] is TrialState.COMPLETE


def test_a_worker_elsewhere_is_alive_as_long_as_it_beats(tmp_path):
    here, there = open_queue(tmp_path), open_queue(tmp_path, "there", timeout=0.0)
    claim = here.take()
    for _ in range(3):
        claim.heartbeat()
        assert there.requeue() == []
    assert there.requeue() == ["a"]  # silent since it was last looked at
    with pytest.raises(Lost):
        claim.heartbeat()
    claim.lock.close()
    # An orphan of the first worker that still trains keeps the run from being taken there.
    orphan = lock_lib.acquire(tmp_path / "here" / "a.lock")
    assert here.take().name == "b"
    orphan.close()
    assert here.take().name == "a"


def test_tries_end_and_crashes_are_counted(tmp_path):
    queue = open_queue(tmp_path, runs={"a": "1"})
    for crashes in range(3):
        claim = queue.take()
        assert claim.crashes == crashes
        claim.again("killed", crashed=True)
        assert queue.take() is None and state(queue)["a"] is TrialState.WAITING
        queue.requeue()
    queue.take().again("interrupted")
    queue.requeue()
    assert queue.take().crashes == 3


def test_a_queue_grows_but_no_run_changes(tmp_path):
    queue = open_queue(tmp_path)
    queue.take().done(1.0)
    grown = open_queue(tmp_path, runs={"z": "26", **RUNS})
    assert state(grown)["a"] is TrialState.COMPLETE and grown.take().name == "z"
    shrunk = open_queue(tmp_path, runs={"c": "3"})
    assert shrunk.take().name == "c" and shrunk.take() is None
    with pytest.raises(UserError, match="a run a with another config"):
        open_queue(tmp_path, runs={"a": "9"})


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(
                ["take", "heartbeat", "done", "again", "crash", "die", "requeue", "join"]
            ),
        ),
        max_size=40,
    )
)
def test_whatever_happens_every_run_ends_once_and_never_two_count_at_a_time(actions):
    """Four workers, two of them in one place; a look without heartbeat is death."""
    with tempfile.TemporaryDirectory() as name:
        places = ["one", "one", "two", "three"]
        queues = [open_queue(Path(name), place, timeout=0.0) for place in places]
        claims: list[list] = [[] for _ in queues]
        ended: list[str] = []

        def end(claim, how):
            try:
                how(claim)
            except Lost:
                claim.lock.close()
                return
            if how is done:
                ended.append(claim.name)

        def done(claim):
            claim.done(1.0)

        for worker, action in actions:
            queue, own = queues[worker], claims[worker]
            if action == "take":
                own += filter(None, [queue.take()])
            elif action == "requeue":
                queue.requeue()
            elif action == "join":
                queues[worker] = open_queue(Path(name), places[worker], timeout=0.0)
            elif action == "die":
                for claim in own:
                    claim.lock.close()
                own.clear()
            elif own and action == "heartbeat":
                end(own[0], lambda claim: claim.heartbeat())
            elif own:
                how = {"done": done, "again": lambda claim: claim.again("interrupted"),
                       "crash": lambda claim: claim.again("killed", crashed=True)}  # fmt: skip
                end(own.pop(0), how[action])
            running = [t for t in queue.study.trials if t.state.name == "RUNNING"]
            assert len({t.user_attrs["run"] for t in running}) == len(running)
        for worker, own in enumerate(claims):
            for claim in own:
                end(claim, done)
            own.clear()
            queues[worker].requeue()
        while not all(each.state.is_finished() for each in queues[0].statuses().values()):
            queues[0].requeue()
            while claim := queues[0].take():
                end(claim, done)
        assert sorted(ended) == sorted(RUNS)


def test_a_lock_lasts_as_long_as_any_process_that_has_it(tmp_path):
    lock = lock_lib.acquire(tmp_path / "lock")
    assert lock_lib.acquire(tmp_path / "lock") is None
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor]
    )
    lock.close()
    lock.close()  # nothing else is closed by it
    assert not lock_lib.is_free(tmp_path / "lock")
    child.communicate(b"\n")
    assert lock_lib.is_free(tmp_path / "lock")
    with pytest.raises(UserError, match="cannot lock"):
        lock_lib.acquire(tmp_path / "lock" / "lock")


def test_a_journal_cut_short_is_mended_and_a_damaged_one_refused(tmp_path):
    open_queue(tmp_path).take().done(1.0)
    path = tmp_path / "journal.log"
    whole = path.read_bytes()
    for cut in (1, 7, 40):
        path.write_bytes(whole[:-cut])
        open_queue(tmp_path).take().done(1.0)  # adds lines
        assert state(open_queue(tmp_path))["a"] in (TrialState.RUNNING, TrialState.COMPLETE)
        assert path.read_bytes().startswith(whole[: whole.rindex(b"\n", 0, -cut) + 1])
    path.write_bytes(b'{"op_code": 99, "worker_id": "x"}\n' + whole)
    with pytest.raises(UserError, match="is damaged"):
        open_queue(tmp_path)
    path.write_bytes(b"\x00\x00\n" + whole)
    with pytest.raises(UserError, match="is damaged"):
        open_queue(tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", r"me:\*\*\*@127.0.0.1:1/x does not answer"),
        ("sqlite:////nonexistent/x.db", "does not answer: .*unable to open"),
        ("oracle://x", "cannot be used|needs a driver"),
        ("redis://localhost", "cannot be used"),
        ("study.db", "no URL; a file is named sqlite:///study.db"),
        ("postgresql://me:secret@127.0.0.1:x/x", "postgresql://… cannot be used: write DIALECT"),
        ("postgresql://me:secret@", "postgresql://.* (cannot be used|does not answer|driver)"),
    ],
)
def test_a_storage_that_is_no_use_is_one_clear_line(tmp_path, monkeypatch, url, message):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=message) as refusal:
        open_storage(url, tmp_path)
    assert "\n" not in str(refusal.value) and "secret" not in str(refusal.value)


def fill(directory):
    queue = open_queue(directory)
    queue.take().done(0.5)
    queue.take().again("interrupted")
    queue.requeue()
    claim = queue.take()
    claim.heartbeat()
    claim.lock.close()
    return (directory / "journal.log").read_bytes()


def work_off(directory):
    # Where the cut took the place of a worker, its heartbeats tell that it is dead.
    queue = open_queue(directory, timeout=0.0)
    for _ in range(9):
        queue.requeue()
        while claim := queue.take():
            claim.done(1.0)
        if all(status.state.is_finished() for status in queue.statuses().values()):
            return
    pytest.fail("waits for ever")


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 1))
def test_a_journal_that_was_cut_anywhere_is_worked_off(share):
    with tempfile.TemporaryDirectory() as name:
        whole = fill(Path(name))
        (Path(name) / "journal.log").write_bytes(whole[: round(share * len(whole))])
        work_off(Path(name))


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 1), st.integers(1, 9))
def test_no_flipped_digit_of_a_journal_goes_unseen(share, change):
    with tempfile.TemporaryDirectory() as name:
        whole = fill(Path(name))
        places = [place for place, byte in enumerate(whole) if chr(byte).isdigit()]
        place = places[round(share * (len(places) - 1))]
        digit = b"%d" % ((int(whole[place : place + 1]) + change) % 10)
        (Path(name) / "journal.log").write_bytes(whole[:place] + digit + whole[place + 1 :])
        with pytest.raises(UserError, match="is damaged"):
            open_queue(Path(name))


@pytest.mark.parametrize("spoil", ["cut", "remove"])
def test_a_journal_that_is_spoilt_at_work_ends_it_and_the_next_start_goes_on(tmp_path, spoil):
    queue = open_queue(tmp_path)
    path = tmp_path / "journal.log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink() if spoil == "remove" else path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UserError, match="start the command again"):
        queue.statuses()
    work_off(tmp_path)


def test_a_last_line_that_is_no_json_is_removed(tmp_path):
    fill(tmp_path)
    with open(tmp_path / "journal.log", "ab") as file:
        file.write(b'{"op_code": 4,\n')
    work_off(tmp_path)


def test_a_journal_of_older_versions_is_read(tmp_path):
    lines = [json.loads(line) for line in fill(tmp_path).splitlines()]
    old = [{key: value for key, value in line.items() if key != "digest"} for line in lines]
    (tmp_path / "journal.log").write_text("".join(json.dumps(line) + "\n" for line in old))
    work_off(tmp_path)
