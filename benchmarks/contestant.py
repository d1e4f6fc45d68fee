"""One contestant in a process of its own: it prepares, says so, then runs rounds when asked.

Needs nothing but NumPy, so that a peer's environment need not hold this project's requirements.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prepared:
    """What a contestant has made ready.

    Attributes:
      work: `work(n)` does n units of work and returns when they are done.
      images: that one unit takes through the model.
      parameters: of the model, so that all contestants can be seen to have the same one.
      facts: versions and settings, for the record.
    """

    work: Callable[[int], object]
    images: int
    parameters: int
    facts: dict[str, Any] = field(default_factory=dict)


def serve(prepare: Callable[[dict[str, Any]], Prepared]) -> None:
    """Talks to `benchmarks.contest`: the task is the first argument, a line of JSON is an answer.

    A line on standard input is a number of seconds and asks for a round of about so long; while
    none comes the process sleeps. What libraries print goes to standard error.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    prepared = prepare(json.loads(sys.argv[1]))
    prepared.work(1)  # compiles
    pace = seconds_of(prepared.work, 1)
    answer(parameters=prepared.parameters, facts=prepared.facts)
    for line in sys.stdin:
        count = max(1, round(float(line) / pace))
        seconds = seconds_of(prepared.work, count)
        pace = seconds / count
        answer(images=count * prepared.images, seconds=seconds)


def seconds_of(work: Callable[..., object], *arguments: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def on_gpu() -> bool:
    """Whether all contestants are to compute on an NVIDIA GPU, as `make bench-gpu` says to JAX."""
    return os.environ.get("JAX_PLATFORMS") == "cuda"


def random_images(task: dict[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `uint8[count, H, W, C]` and labels `int32[count]` of the task's shape and classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *task["image_shape"]), dtype=np.uint8)
    return images, rng.integers(0, task["num_classes"], count).astype(np.int32)


def fastest_batch_size(work: Callable[[int], object]) -> int:
    """The batch size of evaluation that `work` is quickest with, each tried once warm."""
    sizes = (128, 512, 1024) if on_gpu() else (16, 32, 128)
    for size in sizes:
        work(size)
    return min(sizes, key=lambda size: seconds_of(work, size))


def repeat(work: Callable[[], object]) -> Callable[[int], None]:
    """`work` as often as asked."""

    def several(count: int) -> None:
        for _ in range(count):
            work()

    return several
