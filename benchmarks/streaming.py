"""What it costs to read the images anew in every epoch, and how many can be decoded in a second.

python -m benchmarks.streaming --config=configs/eanet_cifar100.py

First the model of the config is trained on the same PNG files streamed and in memory, in turns.
Then JPEG files of 224 x 224 pixels are decoded by more and more workers, beside the loaders of
torch and TensorFlow, where `make .venv-peers/run` has installed them.
"""

import contextlib
import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import contest, record
from benchmarks.contest import ROOT
from benchmarks.photos import write, write_photos
from eanet import config_flags, host
from eanet.data.load import load_dataset
from eanet.data.stored import StoredImages, ahead
from eanet.display.console import Console
from eanet.errors import UserError

WAYS = {"streamed": True, "in memory": False}
LOADERS = {"torch": "torch DataLoader", "tensorflow": "tf.data"}
_AHEAD = 33  # steps whose images may have been decoded before a round: two windows and one

CONFIG = config_flags.DEFINE_config()
flags.DEFINE_integer("rounds", 5, "How often each is measured.", lower_bound=1)
flags.DEFINE_integer("steps", 32, "Training steps in a round.", lower_bound=1)
flags.DEFINE_integer("photos", 1024, "JPEG files to decode in a round.", lower_bound=64)
flags.DEFINE_string("peers", ".venv-peers/bin/python", "An interpreter that has the peers.")
flags.DEFINE_string("out", "runs/benchmarks", "Directory of streaming.json.")


def main(arguments: Sequence[str]) -> None:
    """Measures training and decoding."""
    del arguments
    options, console = flags.FLAGS, Console()
    if CONFIG.value is None:
        raise UserError("--config=FILE is missing, for example configs/eanet_cifar100.py")
    with tempfile.TemporaryDirectory() as directory:
        trained = training(Path(directory), options, console)
        decoded = decoding(Path(directory), options, console)
    rows = [
        (name, *(f"{value:,.0f}" for value in (np.median(rounds), min(rounds), max(rounds))))
        for name, rounds in (trained | decoded).items()
    ]
    console.table("Images per second", ("", "median", "least", "most"), rows)
    values = {"config": CONFIG.value.to_dict(), "training": trained, "decoding": decoded}
    path = record.write(options.out, "streaming", values)
    console.note(f"recorded in {path}")


def training(directory: Path, options: Any, console: Console) -> dict[str, Any]:
    """Images per second of the same steps, streamed and in memory."""
    config, shape = CONFIG.value, (32, 32, 3)
    rng = np.random.default_rng(0)
    steps = options.steps
    pixels = rng.integers(0, 256, (steps * config.batch_size, *shape), dtype=np.uint8)
    images = [Image.fromarray(each) for each in pixels]
    write(directory / "small" / "train", images, "png")
    write(directory / "small" / "test", images[:64], "png")
    with contextlib.ExitStack() as stack:
        work = {
            name: stack.enter_context(_steps(directory, streaming, options))
            for name, streaming in WAYS.items()
        }

        def measure(name: str) -> float:
            return steps * config.batch_size / next(work[name])

        console.note(f"training: {options.rounds} rounds of {steps} steps")
        rounds = contest.interleave(list(WAYS), measure, rounds=options.rounds, seed=0)
    return {f"training, {name}": values for name, values in rounds.items()}


@contextlib.contextmanager
def _steps(directory: Path, streaming: bool, options: Any) -> Iterator[Iterator[float]]:
    """Takes steps as a run does whenever it is asked for the next seconds of a round.

    Before them as many are taken as were decoded ahead while the other one had its turn.
    """
    from eanet.training.dispatch import Pace, take_steps
    from eanet.training.run import set_up

    config = CONFIG.value.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.num_epochs = 1.0 + options.rounds * (1 + _AHEAD / options.steps)
        config.dataset.name = f"folder:{directory / 'small'}"
        config.dataset.val_fraction, config.dataset.streaming = 0.0, streaming
    run = set_up(config, lambda line: None)
    train_steps, pace = run.lower_train_steps(run.abstract_state()).compile(), Pace()

    with run.feed.begin(0) as take:

        def dispatch(state: Any, step: int, count: int) -> Any:
            images, labels, order, start = take(step, count)
            return train_steps(state, images, labels, order, run.seed, step, start, count)

        def work() -> Iterator[float]:
            state, end = run.initial_state(), 0
            for is_measured in itertools.cycle((False, True)):
                steps = options.steps if is_measured else _AHEAD
                start, step, end = time.perf_counter(), end, end + steps
                while step < end:
                    state, step, _ = take_steps(
                        dispatch,
                        state,
                        step,
                        min(end, run.plan.next_event(step)),
                        most=run.feed.most,
                        pace=pace,
                        should_stop=lambda: False,
                        on_finished=lambda step, sums: None,
                    )
                if is_measured:
                    yield time.perf_counter() - start

        yield work()


def decoding(directory: Path, options: Any, console: Console) -> dict[str, Any]:
    """Images per second that 1, 2, 4, … workers decode, up to one for each core."""
    write_photos(directory / "photos", options.photos, 2)
    images = load_dataset(
        f"folder:{directory / 'photos'}", val_fraction=0, streaming=True, log=lambda line: None
    ).train.images
    assert isinstance(images, StoredImages)
    counts = sorted({1, *(2**n for n in range(1, 5) if 2**n <= host.cores()), host.cores()})
    loaders = {name: said for name, said in LOADERS.items() if _is_there(name, options, console)}
    results: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for count in counts:
            results.setdefault(f"decoding, {_workers(count)}", []).append(_own(images, count))
            for name, said in loaders.items():
                speed = _peer(name, directory / "photos" / "train", count, options)
                results.setdefault(f"decoding, {said}, {_workers(count)}", []).append(speed)
    return results


def _own(images: StoredImages, count: int) -> float:
    """From the first of these images on: the workers have started by then."""
    requests = [slice(start, start + 64) for start in range(0, len(images), 64)]
    with contextlib.closing(ahead(images.by(count), requests, 4)) as parts:
        next(parts)
        start = time.perf_counter()
        done = sum(map(len, parts))
    return done / (time.perf_counter() - start)


def _peer(name: str, folder: Path, count: int, options: Any) -> float:
    done = subprocess.run(
        [options.peers, "-m", "benchmarks.peer_loaders", name, str(folder), str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"{LOADERS[name]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])["images_per_second"]


def _is_there(name: str, options: Any, console: Console) -> bool:
    modules = "torch, PIL" if name == "torch" else name
    with contextlib.suppress(OSError):
        done = subprocess.run([options.peers, "-c", f"import {modules}"], capture_output=True)
        if done.returncode == 0:
            return True
    console.note(f"without {LOADERS[name]}: {options.peers} has no {modules}")
    return False


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


if __name__ == "__main__":
    config_flags.run(main, before_config=host.set_up)
