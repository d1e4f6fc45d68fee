"""How long it takes from the command to the first finished training step, and on what.

python -m benchmarks.startup --config=configs/eanet_cifar100.py

Every start is a process of its own; the data set was decoded before. Cold starts have an empty
compilation cache, warm ones that of the start before. Two things are measured, in turns: the parts,
one after the other (`benchmarks/start.py`); and the program itself, `main.py`, until the first line
of `metrics.jsonl`, after one step.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import contest, record
from benchmarks.contest import ROOT
from eanet import config_flags
from eanet.data.load import load_dataset
from eanet.display.console import Console
from eanet.errors import UserError

CACHES = ("cold", "warm")
PROGRAM = "main.py, in all"

CONFIG = config_flags.DEFINE_config()
flags.DEFINE_integer("rounds", 5, "How often each start is measured.", lower_bound=1)
flags.DEFINE_string("out", "runs/benchmarks", "Directory of startup.json and startup.png.")


def main(arguments: Sequence[str]) -> None:
    """Measures cold and warm starts."""
    del arguments
    options, console = flags.FLAGS, Console()
    if CONFIG.value is None:
        raise UserError("--config=FILE is missing, for example configs/eanet_cifar100.py")
    dataset = load_dataset(seed=CONFIG.value.seed, log=console.note, **CONFIG.value.dataset)
    one_step = CONFIG.value.batch_size / len(dataset.train)
    given = [argument for argument in sys.argv if argument.startswith(("--config=", "--config."))]
    given.append(f"--config.eval_every_epochs={one_step}")  # and so it is reported
    seconds: dict[str, dict[str, list[float]]] = {cache: {} for cache in CACHES}
    for count in range(options.rounds):
        for measure in (parts_of_start, program):
            with tempfile.TemporaryDirectory() as directory:
                for cache in CACHES:
                    for part, value in measure(given, Path(directory)).items():
                        seconds[cache].setdefault(part, []).append(value)
        console.note(f"round {count + 1} of {options.rounds}")
    results = {
        cache: {part: contest.spread(values) | {"rounds": values} for part, values in parts.items()}
        for cache, parts in seconds.items()
    }
    columns = ("seconds", *(f"{cache}{more}" for cache in CACHES for more in ("", ", quartiles")))
    console.table("From the command to the first finished step", columns, rows(results))
    values = {"config": CONFIG.value.to_dict(), "rounds": options.rounds, "seconds": results}
    path = record.write(options.out, "startup", values)
    console.note(f"recorded in {path} and {path.with_suffix('.png').name}")


def parts_of_start(config: Sequence[str], directory: Path) -> dict[str, float]:
    """Seconds of each part of a start, with its compiled programs in the directory."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.start", *config],
        cwd=ROOT,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(directory)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"benchmarks.start failed: {done.stderr.strip().splitlines()[-1:]}")
    finished = json.loads(done.stdout.splitlines()[-1])
    times = [start, *finished.values()]
    parts = [after - before for before, after in itertools.pairwise(times)]
    return dict(zip(finished, parts, strict=True)) | {"parts, in all": times[-1] - start}


def program(config: Sequence[str], directory: Path) -> dict[str, float]:
    """Seconds until `main.py` has written that its first step is finished."""
    with tempfile.TemporaryDirectory(dir=directory) as workdir:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "main.py", *config, f"--workdir={workdir}"],
            cwd=ROOT,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(directory / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        metrics = Path(workdir) / "metrics.jsonl"
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    raise UserError(f"main.py failed: {process.communicate()[1].strip()}")
                time.sleep(0.005)
            return {PROGRAM: time.monotonic() - start}
        finally:
            process.kill()
            process.communicate()


def rows(results: Mapping[str, Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    """A row for each part, cold and warm side by side."""
    for part in results["cold"]:
        cells = [part]
        for cache in CACHES:
            value = results[cache][part]
            cells += [f"{value['median']:.2f}", f"{value['lower']:.2f} – {value['upper']:.2f}"]
        yield cells


if __name__ == "__main__":
    config_flags.run(main)
