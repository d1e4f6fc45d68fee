"""How fast training goes, and how many steps a dispatch should hold."""

import time

# Seconds that one dispatch should take: long enough to hide its cost, short enough to stop in.
_TARGET_SECONDS = 2.0


class Pace:
    """Measures finished dispatches and sizes the next ones.

    Attributes:
      steps: for the next dispatch; one until something was measured.
    """

    def __init__(self) -> None:
        self.steps = 1
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
