"""Contestants take turns: each waits in its own process while another one works."""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]

# Before each turn, so that threads which spin for a while after their work have gone to sleep.
_REST_SECONDS = 0.3


class Failed(Exception):
    """A contestant ended; the message is the last line it wrote."""


class Worker:
    """A contestant's process, see `benchmarks.contestant.serve`.

    Args:
      python: the interpreter, of this environment or a peer's.
      module: what to run, such as "benchmarks.ours".
      task: what to prepare.
      environment: variables on top of this process's.

    Raises:
      Failed: the process ended before it was ready.

    Attributes:
      ready: what it told of itself.
    """

    def __init__(
        self, python: str, module: str, task: Mapping[str, Any], environment: Mapping[str, str]
    ):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by `stop`
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(task)],
            cwd=ROOT,
            env=os.environ | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        start = time.perf_counter()
        self.ready = self._answer()
        self.ready["seconds_until_ready"] = time.perf_counter() - start

    def images_per_second(self, seconds: float) -> float:
        """Works for about so long; the others must be idle."""
        assert self._process.stdin is not None
        time.sleep(_REST_SECONDS)
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["images"] / answer["seconds"]

    def peak_memory(self) -> int | None:
        """Bytes that the process and its children had resident at most; None if unknown."""
        own = psutil.Process(self._process.pid)
        return sum(_peak(process.pid) for process in (own, *own.children(recursive=True))) or None

    def stop(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["no message"]
        self.stop()
        raise Failed(f"exit code {self._process.returncode}: {lines[-1]}")


def _peak(pid: int) -> int:
    """Bytes that a process had resident at most; 0 if unknown."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended, or this is not Linux
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def interleave(
    contestants: Sequence[str],
    measure: Callable[[str], float],
    *,
    rounds: int,
    seed: int,
) -> dict[str, list[float]]:
    """Lets all take a turn in each round, in an order drawn anew; returns what was measured.

    Whatever slows the machine for a while then slows all of them.
    """
    rng = np.random.default_rng(seed)
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for index in rng.permutation(len(contestants)):
            name = contestants[index]
            measured[name].append(measure(name))
    return measured


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    lower, median, upper = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "lower": float(lower), "upper": float(upper)}


def ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """How many times as much as `base`: by medians, and the median over rounds."""
    return {
        "of_medians": float(np.median(values) / np.median(base)),
        "median_over_rounds": float(np.median(np.divide(values, base))),
    }
