"""The memory of a training whose images, decoded, are larger than its process may have.

python -m benchmarks.streaming_memory

JPEG files of 224 x 224 are written, and `main.py` trains on them and tests under a limit of the
operating system (`ulimit -d`), which counts all memory that a process may write to. What it has and
what its workers have is read twice a second. Then the same with `dataset.streaming=False`.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import record
from benchmarks.contest import ROOT
from benchmarks.memory import watch
from benchmarks.photos import SIDE, write_photos
from eanet import config_flags
from eanet.display.console import Console
from eanet.errors import UserError

_BYTES = SIDE * SIDE * 3
_CONFIG = {
    "dataset.val_fraction": 0.0,
    "dataset.image_size": f"({SIDE},{SIDE})",
    "model.patch_size": 28,
    "batch_size": 64,
    "num_epochs": 1.0,
    "optimizer.warmup_epochs": 0.0,
}

flags.DEFINE_integer("photos", 10_000, "JPEG files to train on.", lower_bound=64)
flags.DEFINE_integer("limit", 1400, "MB that a process may have.", lower_bound=500)
flags.DEFINE_string("out", "runs/benchmarks", "Directory of streaming_memory.json.")


def main(arguments: Sequence[str]) -> None:
    """Trains within the limit, streamed; then asks for the same in memory."""
    del arguments
    options, console = flags.FLAGS, Console()
    decoded = options.photos * _BYTES
    if decoded <= options.limit * 10**6:
        raise UserError(f"--photos={options.photos} are {decoded / 1e6:.0f} MB, within --limit")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "photos"
        write_photos(folder, options.photos, options.photos // 10)
        points = watch(_start(folder, options.limit))
        refused = _start(folder, options.limit, "--config.dataset.streaming=False")
        _, error = refused.communicate()
    if refused.returncode != 2:
        raise UserError(
            f"in memory it ended with {refused.returncode}, not refused: {error[-300:]}"
        )
    path = record.write(
        options.out,
        "streaming_memory",
        {
            "photos": options.photos,
            "decoded_megabytes": decoded / 1e6,
            "limit_megabytes": options.limit,
            "points": points,
            "in_memory": error.strip().splitlines()[-1].replace(str(folder), "PHOTOS"),
        },
    )
    rows = [(key, f"{max(point[key] for point in points):,.0f}") for key in points[0]]
    console.table(f"{decoded / 1e6:,.0f} MB of images, decoded", ("", "most"), rows)
    console.note(f"recorded in {path}")


def _start(folder: Path, limit: int, *more: str) -> "subprocess.Popen[str]":
    overrides = [f"--config.{key}={value}" for key, value in _CONFIG.items()]
    bytes_ = limit * 10**6
    return subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "main.py")),
            f"--config={ROOT / 'configs/eanet_cifar100_fast.py'}",
            f"--config.dataset.name=folder:{folder}",
            *(*overrides, *more, f"--workdir={folder.parent / 'run'}{len(more)}"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder.parent / "cache")},  # nothing is compiled
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (bytes_, bytes_)),
    )


if __name__ == "__main__":
    config_flags.run(main)
