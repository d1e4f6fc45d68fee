"""What a run takes: time by the clock, and of the cores."""

import os
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Stopwatch:
    """Runs since `begun`, in seconds as of `time.time`, when `cpu` seconds had been computed."""

    begun: float
    cpu: float

    @classmethod
    def now(cls) -> "Stopwatch":
        """Begins now."""
        return cls(time.time(), _cpu_seconds())

    @classmethod
    def of_process(cls) -> "Stopwatch":
        """Has begun with this process."""
        import psutil

        return cls(psutil.Process().create_time(), 0.0)

    def read(self) -> dict[str, float]:
        """Seconds until now, and those of all cores together, of processes that ended as well."""
        return {
            "run_seconds": round(time.time() - self.begun, 3),
            "cpu_seconds": round(_cpu_seconds() - self.cpu, 3),
        }


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])
