import math

import pytest

from eanet.environment import device
from eanet.sweeps.estimate import RunSize, comparable, kind_of, paces, seconds_of, together
from tests.helpers.sweep_records import finished_run

SIZE = RunSize(parameters=10, multiply_adds=1000, images=128, evaluated=200)


def own_devices():
    return int(device().split(" × ")[0])


def test_a_run_takes_as_long_as_it_took(tmp_path):
    config = finished_run(tmp_path / "run", macs=1000)
    [pace] = paces(tmp_path / "sweep", [])
    assert pace.source == tmp_path / "run" and pace.rest == pytest.approx(7)
    assert comparable(kind_of(config), SIZE, [pace]) == pace
    assert seconds_of(SIZE, pace, own_devices()) == pytest.approx(4 + 2.5 + 7)
    # With half of the devices all but the rest takes twice as long, as with twice the MACs.
    half = seconds_of(SIZE, pace, own_devices() / 2)
    twice = seconds_of(SIZE._replace(multiply_adds=2000), pace, own_devices())
    assert half == pytest.approx(2 * 6.5 + 7) == twice


def test_runs_of_a_sweep_beside_it_count(tmp_path):
    (tmp_path / "other").mkdir()
    finished_run(tmp_path / "other/seed=0", macs=1000)
    assert len(paces(tmp_path / "sweep", [])) == 1
    (tmp_path / "sweep").mkdir()
    finished_run(tmp_path / "sweep/seed=0", macs=1000)
    found = paces(tmp_path / "sweep", ["seed=0", "seed=1"])
    assert [pace.source.parent.name for pace in found] == ["sweep", "other"]


def test_of_several_the_nearest_counts(tmp_path):
    for macs, seconds in ((300, 8.5), (900, 80.0), (3000, 9.5), (5000, None)):
        config = finished_run(tmp_path / f"run{macs}", macs=macs, run_seconds=seconds)
    found = comparable(kind_of(config), SIZE, paces(tmp_path / "sweep", []))
    assert found.multiply_adds == 900
    assert found.rest == pytest.approx(9.5 - 6.5)  # the median of what is known
    far = SIZE._replace(multiply_adds=100 * SIZE.multiply_adds)
    assert comparable(kind_of(config), far, paces(tmp_path / "sweep", [])) is None


@pytest.mark.parametrize(
    "results",
    [
        {"device": f"{device().split(' × ')[0]} × abacus"},
        {"device": "cpu"},
        {"device": None},
        {"evaluation_seconds": 0.0},
        {"evaluation_seconds": None},
        {"step": 1, "accuracy": "damaged"},
    ],
)
def test_a_run_elsewhere_or_unmeasured_is_not_comparable(tmp_path, results):
    finished_run(tmp_path / "run", macs=1000, **results)
    assert paces(tmp_path / "sweep", []) == []


@pytest.mark.parametrize("speed", ["0", "-1", "null"])
def test_a_speed_that_cannot_be_estimates_nothing(tmp_path, speed):
    finished_run(tmp_path / "run", macs=1000)
    log = tmp_path / "run/metrics.jsonl"
    log.write_text(log.read_text().replace("32.0", speed))
    assert paces(tmp_path / "sweep", []) == []


def test_only_numbers_may_differ(tmp_path):
    config = finished_run(tmp_path / "run", macs=1000)
    known = paces(tmp_path / "sweep", [])
    other = finished_run(
        tmp_path / "numbers",
        macs=1000,
        overrides={"seed": 3, "model.embed_dim": 24, "batch_size": 8},
    )
    assert comparable(kind_of(other), SIZE, known)
    for number, change in enumerate(
        ({"model.attention": "self"}, {"model.final_norm": not config.model.final_norm})
    ):
        other = finished_run(tmp_path / f"other{number}", macs=1000, overrides=change)
        assert comparable(kind_of(other), SIZE, known) is None


def test_the_rest_is_left_out_where_it_was_not_recorded(tmp_path):
    finished_run(tmp_path / "run", macs=1000, run_seconds=None)
    [pace] = paces(tmp_path / "sweep", [])
    assert math.isnan(pace.rest)
    assert seconds_of(SIZE, pace, own_devices()) == pytest.approx(6.5)


def test_workers_take_the_next_run_when_they_are_free():
    assert together([3, 1, 1, 1], 1) == 6
    assert together([3, 1, 1, 1], 2) == 3
    assert together([1, 1, 1, 3], 2) == 4
    assert together([], 2) == 0
