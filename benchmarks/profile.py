"""Where the time of a training step goes, by part of the model and by instruction.

python -m benchmarks.profile --config=configs/eanet_cifar100.py

Times are those of JAX's profiler for each instruction of the compiled step, less those of
instructions inside it (loops), averaged over steps and devices; `benchmarks/hlo.py` says which part
an instruction belongs to. What they do not add up to, devices spend waiting: for each other, for
memory, or for the host.
"""

from eanet import host

if __name__ == "__main__":
    host.set_up()  # before JAX is imported

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from benchmarks import record
from benchmarks.contestant import seconds_of
from benchmarks.hlo import PARTS, Program
from eanet import config_flags
from eanet.display.console import Console
from eanet.errors import UserError
from eanet.training.run import Run, set_up

CONFIG = config_flags.DEFINE_config()
flags.DEFINE_integer("steps", 5, "How many steps to measure.", lower_bound=1)
flags.DEFINE_integer("top", 12, "How many instructions to list.", lower_bound=0)
flags.DEFINE_string("out", "runs/benchmarks", "Directory of profile.json and profile.png.")


def main(arguments: Sequence[str]) -> None:
    """Compiles the step, runs it without and with the profiler, and shows the parts."""
    del arguments
    options, console = flags.FLAGS, Console()
    if CONFIG.value is None:
        raise UserError("--config=FILE is missing, for example configs/eanet_cifar100.py")
    # A program from the cache would tell where its code stood when it was compiled.
    jax.config.update("jax_enable_compilation_cache", False)
    run = set_up(CONFIG.value, console.note)
    train_steps, text = compiled(run)
    program = Program(text)
    train_steps(1)
    plain = seconds_of(train_steps, options.steps)
    with tempfile.TemporaryDirectory() as directory:
        profiler = jax.profiler.ProfileOptions()
        profiler.python_tracer_level = 0
        with jax.profiler.trace(directory, profiler_options=profiler):
            profiled = seconds_of(train_steps, options.steps)
        [file] = Path(directory).rglob("*.xplane.pb")
        seconds, calls = times(jax.profiler.ProfileData.from_file(str(file)))
    share = 1 / (options.steps * run.mesh.size)
    parts = Counter({part: 0.0 for part in PARTS})
    for name, value in seconds.items():
        parts[program.part(name)] += value * share
    step = {
        "seconds": profiled / options.steps,
        "seconds_without_profiler": plain / options.steps,
        "seconds_of_parts": dict(parts.most_common()),
        "instructions": {
            name: {
                "part": program.part(name),
                "seconds": value * share,
                "calls": calls[name] * share,
            }
            for name, value in seconds.most_common()
        },
    }
    show(step, options.top, console)
    values = {"config": CONFIG.value.to_dict(), "steps": options.steps, **step}
    path = record.write(options.out, "profile", values)
    console.note(f"recorded in {path} and {path.with_suffix('.png').name}")


def compiled(run: Run) -> tuple[Any, str]:
    """A function that runs a number of training steps and waits; the text of its program."""
    state, placed, step = run.initial_state(), run.placed(0), 0
    jitted: Any = run.make_train_steps()
    program = jitted.lower(state, *placed, run.seed, 0, 0, 1).compile()

    def train_steps(count: int) -> None:
        nonlocal state, step
        state, _, reached = program(state, *placed, run.seed, step, 0, count)
        step = int(reached)  # waits

    return train_steps, program.as_text()


def times(profile: Any) -> tuple[Counter[str], Counter[str]]:
    """Seconds of each instruction, without those inside it, and how often it ran."""
    nanoseconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    # Python 3.13 says so of jaxlib's bindings, whoever uses them.
    warnings.filterwarnings("ignore", message="builtin type .* has no __module__ attribute")
    for line in (line for plane in profile.planes for line in plane.lines):
        events = [(event, dict(event.stats).get("hlo_op")) for event in line.events]
        open_events: list[tuple[str, float]] = []
        for event, name in sorted(
            ((event, str(name)) for event, name in events if name),
            key=lambda pair: (pair[0].start_ns, -pair[0].duration_ns),
        ):
            while open_events and open_events[-1][1] <= event.start_ns:
                open_events.pop()
            if open_events:
                nanoseconds[open_events[-1][0]] -= event.duration_ns
            nanoseconds[name] += event.duration_ns
            calls[name] += 1
            open_events.append((name, event.start_ns + event.duration_ns))
    return Counter({name: 1e-9 * value for name, value in nanoseconds.items()}), calls


def show(step: dict[str, Any], top: int, console: Console) -> None:
    """Prints the parts and the slowest instructions."""
    whole, parts = step["seconds"], step["seconds_of_parts"]
    waiting = whole - sum(parts.values())

    def row(name: str, seconds: float) -> Sequence[str]:
        return name, f"{1e3 * seconds:.1f}", f"{seconds / whole:.1%}"

    rows: Iterable[Sequence[str]] = [
        *(row(part, value) for part, value in parts.items()),
        row("waiting", waiting),
        row("a step, profiled", whole),
        row("a step, without the profiler", step["seconds_without_profiler"]),
    ]
    console.table("A training step, by part", ("part", "ms", "share"), rows)
    slowest = list(step["instructions"].items())[:top]
    console.table(
        "The slowest instructions",
        ("instruction", "part", "ms a step", "calls a step"),
        (
            (name, each["part"], f"{1e3 * each['seconds']:.1f}", f"{each['calls']:.0f}")
            for name, each in slowest
        ),
    )


if __name__ == "__main__":
    config_flags.run(main)
