import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eanet.errors import UserError
from eanet.training.plan import Plan


@st.composite
def plans(draw):
    num_examples = draw(st.integers(1, 500))
    batch_size = draw(st.integers(1, num_examples))
    # Not longer than some hundred steps.
    longest = max(0.02, min(20.0, 300 * batch_size / num_examples))
    epochs = st.one_of(
        st.floats(0.02, longest), st.integers(1, 5).map(lambda n: min(float(n), longest))
    )
    every = st.one_of(st.floats(0.02, 10.0), st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0, 3.0]))
    steps = draw(st.sampled_from([0, 0, 1, 2, 7, 50]))
    return Plan(num_examples, batch_size, draw(epochs), draw(every), draw(every), steps)


def events(plan):
    """The steps at which the loop of training stops, as it goes from one to the next."""
    step, found = 0, []
    while step < plan.total_steps:
        step = plan.next_event(step)
        assert len(found) <= plan.total_steps
        found.append(step)
    return found


@given(plans())
@settings(max_examples=100, deadline=None)
def test_validations_are_counted_as_they_come(plan):
    steps = range(1, plan.total_steps + 1)
    assert plan.validations == sum(map(plan.validates_at, steps))


@given(plans())
@settings(max_examples=150, deadline=None)
def test_the_batches_cover_the_stream_of_all_epochs_exactly(plan):
    """Batches are cut from each epoch's order, which a bit of the next one's follows."""
    seen, step = [], 0
    for end in events(plan):
        epoch, start = plan.epoch_of(step), plan.offset_in_epoch(step)
        first = epoch * plan.num_examples
        order = range(first, first + plan.num_examples + plan.batch_size)
        assert 0 <= start < plan.num_examples
        for i in range(end - step):
            batch = order[start + i * plan.batch_size :][: plan.batch_size]
            assert len(batch) == plan.batch_size
            seen.extend(batch)
        step = end
    assert seen == list(range(plan.total_steps * plan.batch_size))


@given(plans())
@settings(max_examples=150, deadline=None)
def test_events_rise_to_the_last_step_which_validates_reports_and_saves(plan):
    found = events(plan)
    assert found == sorted(set(found))
    last = found[-1]
    assert last == plan.total_steps >= 1
    assert plan.validates_at(last) and plan.reports_at(last) and plan.saves_at(last)


@given(plans())
@settings(max_examples=150, deadline=None)
def test_whatever_is_due_is_an_event_and_comes_as_often_as_asked(plan):
    found = set(events(plan))
    steps = range(1, plan.total_steps + 1)
    due = (
        (plan.validates_at, plan.eval_every_epochs, 0),
        (plan.saves_at, plan.checkpoint_every_epochs, plan.checkpoint_every_steps),
    )
    for is_due, every, every_steps in due:
        expected = {
            math.ceil(count * every * plan.num_examples / plan.batch_size - 1e-6)
            for count in range(1, math.ceil(plan.total_steps * plan.batch_size / every) + 1)
            if count * every <= plan.num_epochs + plan.batch_size
        }
        if every_steps:
            expected |= {step for step in steps if step % every_steps == 0}
        expected = {step for step in expected if 0 < step <= plan.total_steps}
        assert {step for step in steps if is_due(step)} == expected | {plan.total_steps}
        assert {step for step in steps if is_due(step)} <= found
    assert all(plan.reports_at(step) for step in steps if plan.validates_at(step))


@given(plans())
@settings(max_examples=100, deadline=None)
def test_every_step_belongs_to_one_epoch(plan):
    steps = range(plan.total_steps)
    epochs = [plan.epoch_of(step) for step in steps]
    assert epochs[0] == 0
    assert all(0 <= after - before <= 1 for before, after in itertools.pairwise(epochs))
    for step, epoch in zip(steps, epochs, strict=True):
        position = epoch * plan.num_examples + plan.offset_in_epoch(step)
        assert position == step * plan.batch_size
    values = [plan.epochs(step) for step in range(plan.total_steps + 1)]
    assert values == sorted(values) and values[0] == 0
    for step, value in enumerate(values):
        assert abs(value - step / plan.steps_per_epoch) <= 1 / plan.steps_per_epoch + 1e-6


@given(plans())
@settings(max_examples=100, deadline=None)
def test_a_number_of_epochs_is_complete_after_its_steps_and_not_before(plan):
    steps = plan.steps(plan.num_epochs)
    wanted = plan.num_epochs * plan.num_examples
    assert steps * plan.batch_size >= wanted - 1e-5 * plan.batch_size
    assert (steps - 1) * plan.batch_size < wanted


def test_the_example():
    plan = Plan(40_000, 128, 50.0, 1.0, 1.0)
    assert plan.steps_per_epoch == 312.5
    assert plan.total_steps == 15_625
    assert [plan.next_event(step) for step in (0, 312, 313, 624, 625)] == [313, 313, 625, 625, 938]
    assert [plan.epochs(step) for step in (0, 100, 313, 625)] == [0.0, 0.32, 1.0, 2.0]
    assert plan.epoch_of(312) == 0 and plan.offset_in_epoch(313) == 313 * 128 - 40_000


def test_fractions_of_epochs():
    plan = Plan(100, 10, 0.35, 0.1, 0.2)
    assert plan.total_steps == 4
    assert events(plan) == [1, 2, 3, 4]
    assert [plan.saves_at(step) for step in range(5)] == [False, False, True, False, True]
    assert not plan.validates_at(0) and not plan.reports_at(0)
    assert Plan(100, 10, 1e-9, 1.0, 1.0).total_steps == 1


@pytest.mark.parametrize(
    ("mild_epochs", "mild_from"),
    [(0.0, None), (1.0, 14), (1.5, 10), (0.01, 20), (3.0, 0), (9e5, 0)],
)
def test_the_last_epochs_are_mild(mild_epochs, mild_from):
    """A batch that reaches into them is still as those before it."""
    plan = Plan(100, 15, 3.0, 1.0, 1.0, mild_epochs=mild_epochs)
    assert plan.total_steps == 20
    mild = [] if mild_from is None else list(range(mild_from, 20))
    assert plan.mild_from == mild_from
    assert [step for step in range(20) if step * 15 >= (3 - mild_epochs) * 100] == mild


def test_a_batch_of_more_than_all_examples():
    with pytest.raises(UserError, match=r"batch_size=101 .*100 training"):
        Plan(100, 101, 1.0, 1.0, 1.0)


def test_more_examples_than_an_int32_counts():
    with pytest.raises(UserError, match="num_epochs"):
        Plan(50_000, 100, 50_000.0, 1.0, 1.0)
