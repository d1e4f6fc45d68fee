"""Images a second of this project and its peers, in training and evaluation.

python -m benchmarks.throughput --config=configs/eanet_cifar100.py [--cases=train,evaluate]

Each contestant lives in a process of its own that compiles, warms up and then sleeps until it is
its turn. In every round each works for a few seconds, in an order drawn anew, while the others
sleep. All have the same model (the number of parameters is compared), AdamW with the same settings,
label smoothing, top-1 and top-5 hits, batch size and float32, on random uint8 images that they
normalise themselves. Ours is the program of `main.py`, with its host set-up. Peers have the
settings that suit them best, see `benchmarks/peer_keras.py` and `benchmarks/peer_torch.py`; in
evaluation each takes the batch size that it is fastest with.

`make .venv-peers/run` installs the peers; one that is not installed or fails is skipped with a
note.
"""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import psutil
from absl import flags
from ml_collections import ConfigDict

from benchmarks import contest, record
from benchmarks.cases import CASES, PEERS, Case, Contestant
from benchmarks.contest import ROOT, Failed, Worker
from benchmarks.contestant import on_gpu
from eanet import config_flags
from eanet.display.console import Console
from eanet.errors import UserError

PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

# For one more contestant; all of them keep what they have taken until the last round.
NEEDED_MEMORY = 5e9

CONFIG = config_flags.DEFINE_config()
flags.DEFINE_list("cases", list(CASES)[:4], f"What to measure, of: {', '.join(CASES)}.")
flags.DEFINE_list("peers", list(PEERS), f"Whom to compare with, of: {', '.join(PEERS)}.")
flags.DEFINE_string(
    "peer_python",
    str(PEER_PYTHON if PEER_PYTHON.exists() else sys.executable),
    "Interpreter in whose environment the peers are installed.",
)
flags.DEFINE_integer("rounds", 9, "How often each contestant takes its turn.", lower_bound=1)
flags.DEFINE_float("seconds", 5.0, "About how long a turn lasts; at least one step.")
flags.DEFINE_integer("seed", 0, "Of the order of turns.")
flags.DEFINE_string("out", "runs/benchmarks", "Directory of throughput.json and throughput.png.")


def main(arguments: Sequence[str]) -> None:
    """Measures the chosen cases one after the other."""
    del arguments
    options, console = flags.FLAGS, Console()
    if CONFIG.value is None:
        raise UserError("--config=FILE is missing, for example configs/eanet_cifar100.py")
    known("cases", options.cases, CASES)
    known("peers", options.peers, PEERS)
    results = {}
    for name in options.cases:
        console.note(f"{CASES[name].title}: {options.rounds} rounds")
        results[name] = measure(CASES[name], CONFIG.value, console)
        console.table(CASES[name].title, COLUMNS, rows(results[name]["contestants"]))
    values = {
        "config": CONFIG.value.to_dict(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "seed": options.seed,
        "cases": results,
    }
    path = record.write(options.out, "throughput", values)
    console.note(f"recorded in {path} and {path.with_suffix('.png').name}")


def known(flag: str, given: Sequence[str], choices: Iterable[str]) -> None:
    """Refuses what is not among the choices."""
    if unknown := [name for name in given if name not in choices]:
        raise UserError(f"--{flag} has no {', '.join(unknown)}; there are: {', '.join(choices)}")


def measure(case: Case, config: ConfigDict, console: Console) -> dict[str, Any]:
    """Starts the contestants, lets them take turns, and compares the first with the others."""
    options = flags.FLAGS
    workers: dict[str, Worker] = {}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        for name, contestant in case.contestants.items():
            if contestant.needs and name not in options.peers:
                continue
            try:
                worker = workers[name] = start(case, config, contestant)
            except Failed as failure:
                if not contestant.needs:
                    raise UserError(f"{name} failed: {failure}") from None
                skipped[name] = str(failure)
                console.warn(f"{name} is skipped: {failure}")
                continue
            stack.callback(worker.stop)
            console.note(f"{name} is ready after {worker.ready['seconds_until_ready']:.0f} s")
            first = next(iter(workers.values()))
            if contestant.needs and worker.ready["parameters"] != first.ready["parameters"]:
                raise AssertionError(f"{name} is another model: {worker.ready}")
        measured = contest.interleave(
            list(workers),
            lambda name: workers[name].images_per_second(options.seconds),
            rounds=options.rounds,
            seed=options.seed,
        )
        # That of a GPU is not the process's own to see.
        memory = {
            name: None if on_gpu() else worker.peak_memory() for name, worker in workers.items()
        }
    base = next(iter(measured.values()))
    contestants = {
        name: {
            **contest.spread(measured[name]),
            "first_is_faster_by": contest.ratios(base, measured[name]),
            "peak_memory_bytes": memory[name],
            **worker.ready,
            "images_per_second": measured[name],
        }
        for name, worker in workers.items()
    }
    return {"title": case.title, "skipped": skipped, "contestants": contestants}


def start(case: Case, config: ConfigDict, contestant: Contestant) -> Worker:
    """Starts a contestant and waits until it is ready.

    Raises:
      Failed: it cannot do what the case asks, has no room, is not installed, or ended.
    """
    if lack := case.lacks(config, contestant):
        raise Failed(f"it has {lack}")
    python = sys.executable
    if contestant.needs:
        if psutil.virtual_memory().available < NEEDED_MEMORY:
            raise Failed("too little memory is left beside the others; measure it by itself")
        python = flags.FLAGS.peer_python
        if missing := [package for package in contestant.needs if not installed(package, python)]:
            raise Failed(f"{', '.join(missing)} is not installed for {python}")
    task = case.task(config, contestant)
    return Worker(python, contestant.module, task, contestant.environment)


def installed(package: str, python: str) -> bool:
    """Whether an interpreter finds a package."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    try:
        return subprocess.run([python, "-c", code], check=False).returncode == 0
    except OSError as error:
        raise UserError(f"--peer_python={python}: {error.strerror}") from None


COLUMNS = ("contestant", "images/s", "quartiles", "first: faster by", "by rounds", "peak memory")


def rows(contestants: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    """The table's rows."""
    for name, values in contestants.items():
        faster, memory = values["first_is_faster_by"], values["peak_memory_bytes"]
        yield (
            name,
            f"{values['median']:.1f}",
            f"{values['lower']:.1f} – {values['upper']:.1f}",
            f"{faster['of_medians']:.2f} ×",
            f"{faster['median_over_rounds']:.2f} ×",
            f"{memory / 1e9:.2f} GB" if memory else "unknown",
        )


if __name__ == "__main__":
    config_flags.run(main)
