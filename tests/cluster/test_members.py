import signal
import sys

import numpy as np
import pytest

from eanet.cluster import alike
from eanet.cluster import members as members_lib
from eanet.cluster.members import ALONE, Refused, Wishes
from eanet.data.load import load_dataset
from eanet.signals import Request
from tests.cluster.fakes import together

NOTHING = Wishes(stop=None, save=None, due=False, steps=7)


def test_all_texts_come_to_all_in_order():
    def task(members):
        return [members.exchange(f"{round}/{members.index}") for round in range(20)]

    results, store = together(3, task)
    assert results == [[[f"{r}/{i}" for i in range(3)] for r in range(20)]] * 3
    assert len(store.texts) <= 4  # those of the last round


def test_a_process_alone_wishes_for_itself():
    assert ALONE.leads and ALONE.exchange("text") == ["text"]
    assert ALONE.agree(NOTHING) == NOTHING
    own = Request()
    assert ALONE.shared(own) is own
    ALONE.refuse_differences({"code": "1"})
    tree = {"leaf": np.ones(3)}
    assert ALONE.broadcast(tree, None) is tree


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_a_signal_to_any_is_one_to_all_and_the_leader_counts_the_steps(asked):
    def task(members):
        mine = members.index == asked
        return members.agree(
            Wishes(
                stop=signal.SIGTERM if mine else None,
                save=signal.SIGHUP if mine else None,
                due=members.index == 0,
                steps=10 + members.index,
            )
        )

    results, _ = together(3, task)
    assert results == [Wishes(signal.SIGTERM, signal.SIGHUP, True, 10)] * 3


def test_a_shared_request_comes_at_the_same_time():
    def task(members):
        own = Request()
        shared = members.shared(own)
        seen = [bool(shared)]
        if members.index == 1:
            own.signal = signal.SIGINT
        return [*seen, bool(shared), bool(shared), shared.signal]

    results, _ = together(2, task)
    assert results == [[False, True, True, signal.SIGINT]] * 2


def test_a_difference_is_named_and_refused_by_all():
    def task(members):
        config = {"seed": "0", "model.depth": "8"}
        if members.index == 2:
            config["model.depth"] = "4"
        members.refuse_differences(config)

    results, _ = together(3, task)
    for error in results:
        assert isinstance(error, Refused)
        assert str(error).startswith(
            "process 2 on node2 is not like process 0 on node0: model.depth is 4 there and 8 here;"
        )


def test_what_memory_decides_must_be_alike():
    dataset = load_dataset("digits")

    def task(members):
        members.refuse_differences(alike.data(dataset, members.index == 1))

    results, _ = together(2, task)
    for error in results:
        assert "dataset.streaming, chosen by memory, is True there and False here" in str(error)


def test_the_least_of_all_processes_is_the_same_for_each():
    assert together(3, lambda members: members.least(7 - members.index))[0] == [5, 5, 5]
    assert ALONE.least(sys.maxsize) == sys.maxsize


def test_another_directory_is_refused_by_all(tmp_path, monkeypatch):
    monkeypatch.setattr(members_lib, "_VISIBLE", 0.1)
    (tmp_path / "0").write_text("owner")

    def task(members):
        members.refuse_another_place(tmp_path / str(members.index))

    results, _ = together(2, task)
    for error in results:
        assert isinstance(error, Refused)
        assert "process 1 on node1 does not see the same directory" in str(error)
    (tmp_path / "1").write_text("owner")
    assert together(2, task)[0] == [None, None]
