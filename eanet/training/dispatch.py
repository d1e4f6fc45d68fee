"""Keeps the device busy: dispatches of many steps, one ahead of what the host has read."""

import time
from collections.abc import Callable
from typing import Any

import jax

from eanet.training.step import TrainState

# Seconds that one dispatch should take: long enough to hide its cost, short enough to stop in.
_TARGET_SECONDS = 2.0


class Pace:
    """Measures finished dispatches and sizes the next ones."""

    def __init__(self) -> None:
        self.steps = 1  # for the next dispatch
        self.restart()

    def restart(self) -> None:
        """Forgets what was measured and stops the clock, for what is not training."""
        self._last: float | None = None
        self._finished_steps = 0
        self._seconds = 0.0

    def started(self) -> None:
        """Notes that a dispatch was handed to the device; compilation lies before that."""
        if self._last is None:
            self._last = time.perf_counter()

    def finished(self, steps: int) -> None:
        """Notes that a dispatch of this many steps has just finished."""
        now = time.perf_counter()
        seconds = now - (now if self._last is None else self._last)
        self._last = now
        self._finished_steps += steps
        self._seconds += seconds
        wanted = int(_TARGET_SECONDS * steps / max(seconds, 1e-9))
        self.steps = max(1, min(wanted, 4 * self.steps))

    def steps_per_second(self) -> float:
        """Since the last restart; NaN where too little was measured."""
        return self._finished_steps / self._seconds if self._seconds else float("nan")


def take_steps(
    run: Callable[[TrainState, int, int], tuple[TrainState, Any, jax.Array]],
    state: TrainState,
    step: int,
    end: int,
    *,
    pace: Pace,
    should_stop: Callable[[], bool],
    on_finished: Callable[[int, Any], None],
    most: int = 2**31 - 1,
) -> tuple[TrainState, int, bool]:
    """Takes the steps from `step` to `end`, or fewer where `should_stop` says so before a dispatch.

    `run(state, step, count)` hands steps, at most `most`, to the device and returns the new state,
    its sums and the step it reached; `on_finished` is told step and sums of each dispatch.

    Returns:
      The new state, the step it stands at, and whether a step could not be taken because its loss
      or gradient is not finite; then the state is the one before that step.
    """

    def read(end: int, count: int, sums: Any, at: jax.Array) -> int:
        reached = int(at)  # waits for the device
        pace.finished(count)
        if reached == end:
            on_finished(reached, sums)
        return reached

    running: tuple[int, int, Any, jax.Array] | None = None
    while step < end and not should_stop():
        count, before = min(pace.steps, most, end - step), running
        state, sums, at = run(state, step, count)
        pace.started()
        running = step + count, count, sums, at
        behind, step = step, step + count
        if before and read(*before) < behind:
            break
    reached = read(*running) if running else step
    return state, reached, reached < step
