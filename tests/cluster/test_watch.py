import threading
import time
import types

import pytest

from eanet.cluster import watch as watch_lib
from eanet.cluster.watch import Watch
from eanet.errors import PEER_ENDED
from tests.cluster.fakes import FakeStore

NAMES = ("process 0 on a", "process 1 on b", "process 2 on c")


@pytest.fixture
def ended(monkeypatch):
    """What the process would have said and exited with."""
    seen, event = [], threading.Event()

    def leave(code):
        seen.append(code)
        event.set()
        threading.Event().wait()  # the thread goes no further

    system = types.SimpleNamespace(write=lambda _, text: seen.append(text.decode()), _exit=leave)
    monkeypatch.setattr(watch_lib, "os", system)
    monkeypatch.setattr(watch_lib, "_BEAT", 0.02)
    monkeypatch.setattr(watch_lib, "_LINGER", 0.0)
    return types.SimpleNamespace(seen=seen, wait=event.wait)


@pytest.mark.parametrize(("index", "silent"), [(0, 2), (1, 0)])
def test_a_process_that_gives_no_sign_is_named(ended, index, silent):
    store = FakeStore()
    own = Watch(store, index, NAMES, timeout=0.3)
    others = [Watch(store, i, NAMES, 60) for i in range(3) if i not in (index, silent)]
    assert ended.wait(20)
    line = ended.seen[0]
    assert f"error: {NAMES[silent]} has ended or hangs: no sign of life for 0.3 s" in line
    assert line.count("\n") == 1 and PEER_ENDED in ended.seen
    for each in (own, *others):
        each.close()


def test_what_a_process_reports_ends_the_others_with_its_line(ended):
    store = FakeStore()
    first, second = (Watch(store, index, NAMES, 60) for index in (1, 2))
    first.report("error: the disk is full\x1b[31m")
    assert ended.wait(20)
    assert "process 1 on b ended: error: the disk is full" in ended.seen[0]
    assert "the same command goes on" in ended.seen[0]
    assert "\x1b" not in ended.seen[0] and ended.seen[1] == PEER_ENDED
    first.close()
    second.close()


def test_what_would_fail_again_ends_the_others_with_its_code(ended):
    store = FakeStore()
    first, second = (Watch(store, index, NAMES, 60) for index in (1, 2))
    first.report("error: a.png cannot be read", 2)
    assert ended.wait(20)
    assert ended.seen[0].endswith("a.png cannot be read; this process ends too\n")
    assert ended.seen[1] == 2
    first.close()
    second.close()


def test_the_loss_of_the_connection_is_the_end_of_process_0(ended):
    store = FakeStore()
    store.relay = types.SimpleNamespace(lost=threading.Event())
    watch = Watch(store, 2, NAMES, 60)
    store.relay.lost.set()
    assert ended.wait(20)
    assert "process 0 on a has ended;" in ended.seen[0]
    watch.close()


def test_processes_that_live_are_left_alone(ended):
    store = FakeStore()
    watches = [Watch(store, index, NAMES, timeout=5) for index in range(3)]
    assert not ended.wait(0.5)
    for each in watches:
        each.close()


@pytest.mark.slow
def test_processes_whose_answers_come_late_are_left_alone(ended, monkeypatch):
    """As on a machine with far more to do than cores."""

    class Late(FakeStore):
        def get(self, name, seconds):
            time.sleep(min(seconds, 0.2))
            return super().get(name, 0) if seconds >= 0.2 else None

    monkeypatch.setattr(watch_lib, "_BEAT", 0.3)
    store = Late()
    watches = [Watch(store, index, NAMES, timeout=1) for index in range(3)]
    assert not ended.wait(2)
    for each in watches:
        each.close()
