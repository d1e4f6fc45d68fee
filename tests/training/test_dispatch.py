from types import SimpleNamespace

import pytest

from eanet.training.dispatch import Pace, take_steps


class Device:
    """Takes steps at once, up to one that it cannot take."""

    def __init__(self, fails_at=None):
        self.fails_at, self.at, self.dispatched = fails_at, 0, []

    def run(self, state, step, count):
        self.dispatched.append((step, count))
        for i in range(count):
            if self.at == step + i and self.at != self.fails_at:
                self.at += 1
        return self.at, f"sums at {self.at}", self.at


def take(device, start, end, *, pace=None, should_stop=lambda: False):
    device.at, told = start, []
    state, step, failed = take_steps(
        device.run,
        start,
        start,
        end,
        pace=pace or Pace(),
        should_stop=should_stop,
        on_finished=lambda step, sums: told.append((step, sums)),
    )
    assert state == device.at
    return step, failed, told


def test_all_steps_are_dispatched_once_and_told_in_order():
    device = Device()
    step, failed, told = take(device, 3, 40)
    assert (step, failed) == (40, False)
    starts = [start for start, _ in device.dispatched]
    ends = [start + count for start, count in device.dispatched]
    assert starts == [3, *ends[:-1]] and ends[-1] == 40
    assert told == [(end, f"sums at {end}") for end in ends]


@pytest.mark.parametrize("fails_at", [0, 1, 4, 7, 20, 39])
def test_a_step_that_fails_ends_it_there(fails_at):
    step, failed, told = take(Device(fails_at), 0, 40)
    assert (step, failed) == (fails_at, True)
    assert all(step <= fails_at for step, _ in told)


def test_it_stops_between_dispatches_when_asked():
    answers = iter([False, False, True])
    device = Device()
    step, failed, told = take(device, 0, 100, should_stop=lambda: next(answers))
    assert len(device.dispatched) == len(told) == 2
    assert not failed and step == told[-1][0] < 100


def test_dispatches_grow_to_about_two_seconds(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("eanet.training.dispatch.time.perf_counter", lambda: clock.now)
    pace, sizes = Pace(), []
    for _ in range(6):
        pace.started()
        sizes.append(pace.steps)
        clock.now += 0.1 * pace.steps
        pace.finished(pace.steps)
    assert sizes == [1, 4, 16, 20, 20, 20]
    assert pace.steps_per_second() == pytest.approx(10.0)
    pace.restart()
    assert pace.steps_per_second() != pace.steps_per_second()  # nothing measured yet
