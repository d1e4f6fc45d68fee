"""One start, part by part, in a process of its own; `benchmarks.startup` runs it.

Does what `main.py` does up to its first step, one part after the other, and prints a line of JSON:
the part's name and when it was finished, in seconds of the system's monotonic clock.
"""

import time

from eanet import host

if __name__ == "__main__":
    host.set_up()  # before JAX is imported, as in main.py
    FINISHED = {"interpreter": time.monotonic()}

import json
from collections.abc import Sequence

import jax

import train  # noqa: F401, main.py imports it too
from eanet import config_flags
from eanet.training.run import set_up

CONFIG = config_flags.DEFINE_config()


def main(arguments: Sequence[str]) -> None:
    """Starts, and tells when each part was finished."""
    del arguments
    finished("imports and flags")
    run = set_up(CONFIG.value, lambda line: None)
    first = (*run.placed(0), run.seed, 0, 0, 1)
    finished("data")
    state = jax.block_until_ready(run.initial_state())
    finished("initial state")
    traced = run.make_train_steps().trace(state, *first)
    finished("tracing")
    lowered = traced.lower()
    finished("lowering")
    program = lowered.compile()
    finished("compiling, or reading the cache")
    jax.block_until_ready(program(state, *first))
    finished("first step")
    print(json.dumps(FINISHED))


def finished(part: str) -> None:
    """Notes that a part is done."""
    FINISHED[part] = time.monotonic()


if __name__ == "__main__":
    config_flags.run(main)
