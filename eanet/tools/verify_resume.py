"""Proves that a run which is stopped and started again ends as one that was not.

python -m eanet.verify_resume --config=configs/eanet_digits.py [--kills=K] [--config.KEY=VALUE ...]

One run is left alone; another is stopped at random moments, most often by SIGKILL, a quarter of the
time while it saves, and started again; where it comes to its end before it was stopped K times,
one more follows. Then the digests of all parameters, optimizer state and averages, and of the
metrics but for the speed, are compared. Exit code 0: the same bytes.
"""

from eanet import host

if __name__ == "__main__":
    host.set_up()  # as main.py does, so that the record names its devices

import collections
import functools
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from eanet import config_flags
from eanet.checkpoints.manager import Checkpoints
from eanet.environment import environment
from eanet.errors import UserError
from eanet.files import strict_json, write_atomically
from eanet.workdir.log import read

MAIN = Path(__file__).parents[1] / "main.py"

# What a clock has measured is not the same twice.
_TIMED = ("images_per_second",)
# How and when to stop, each as often as it stands here.
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_MOMENTS = ("while starting", "while training", "while training", "while saving")
# A stop while saving comes at most so many seconds after the save began.
_SAVING_SECONDS = 0.05


def verify(
    arguments: Sequence[str], directory: Path, *, kills: int, seed: int, log: Callable[[str], Any]
) -> dict[str, Any]:
    """Runs `main.py` with these arguments left alone and stopped, and takes digests of the ends.

    Args:
      arguments: of `main.py`, without the workdir.
      directory: an empty one, for the two workdirs and what the processes say.
      kills: how often to stop in all.
      seed: of the moments and signals.
      log: told what happens, a line each.

    Returns:
      stops (how often, by signal and by moment), and the digests of the run that was left alone
      and of those that were stopped.

    Raises:
      UserError: a run ended otherwise than it should.
    """
    left_alone = _Run(arguments, directory / "left_alone")
    left_alone.start()
    left_alone.wait_until_training()
    began = time.monotonic()
    left_alone.finish()
    seconds = time.monotonic() - began
    log(f"left alone: {seconds:.1f} s of training")

    draw = random.Random(seed)
    ends: list[dict[str, str]] = []
    stops: collections.Counter[str] = collections.Counter()
    while stops["in all"] < kills:
        before = stops["in all"]
        disturbed = _Run(arguments, directory / f"stopped_{len(ends) + 1}")
        disturbed.start()
        while stops["in all"] < kills:
            number, moment = draw.choice(_SIGNALS), draw.choice(_MOMENTS)
            if not disturbed.wait_for(moment, draw.uniform(0, 2 * seconds / (kills + 1))):
                break
            disturbed.stop(number)
            stops.update(("in all", moment, signal.Signals(number).name))
            log(f"stop {stops['in all']} of {kills}: {signal.Signals(number).name} {moment}")
            disturbed.start()
        disturbed.finish()
        ends.append(digests(disturbed.workdir))
        if stops["in all"] == before:
            raise UserError("the run ends before it can be stopped; raise num_epochs")
    return {"stops": dict(stops), "left_alone": digests(left_alone.workdir), "stopped": ends}


def digests(workdir: Path) -> dict[str, str]:
    """SHA-256 of the newest checkpoint's tensors, by part of the state, and of the metrics."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        tensors = checkpoints.arrays("latest")
    parts: dict[str, Any] = {}
    for name, tensor in sorted(tensors.items()):
        digest = parts.setdefault(name.split("/")[0], hashlib.sha256())
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    lines = [
        {name: value for name, value in line.items() if name not in _TIMED}
        for line in read(workdir / "metrics.jsonl")
    ]
    parts["metrics"] = hashlib.sha256(json.dumps(lines).encode())
    return {part: digest.hexdigest() for part, digest in parts.items()}


class _Run:
    """`main.py` in a process of its own, again and again on one workdir."""

    def __init__(self, arguments: Sequence[str], workdir: Path):
        self.workdir = workdir
        self._command = [sys.executable, str(MAIN), *arguments, f"--workdir={workdir}"]
        self._said = workdir.with_suffix(".txt")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(self._command, stdout=said, stderr=said)

    def finish(self) -> None:
        """Waits for the end of training and of the final evaluation."""
        self._expect(0)

    def stop(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._expect(-number, 128 + number, 0)

    def wait_until_training(self) -> bool:
        """Waits until everything is set up; False where the process ended before."""
        return self._wait(lambda: b"\ntraining " in self._said.read_bytes())

    def wait_for(self, moment: str, seconds: float) -> bool:
        """Waits for a moment and then some seconds; False where the process ended before."""
        if moment != "while starting" and not self.wait_until_training():
            return False
        if moment == "while saving":
            saves = (self.workdir / "checkpoints").glob
            if not self._wait(lambda: any(saves("saving-*"))):
                return False
            seconds = min(seconds, _SAVING_SECONDS)
        end = time.monotonic() + seconds
        return self._wait(lambda: time.monotonic() >= end)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        assert self._process is not None
        while not condition():
            if self._process.poll() is not None:
                return False
            time.sleep(0.001)
        return True

    def _expect(self, *codes: int) -> None:
        assert self._process is not None
        code = self._process.wait()
        if code not in codes:
            last = self._said.read_text(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"main.py ended with code {code}: {' '.join(last)}")


def main(arguments: Sequence[str]) -> None:
    """The command of the module's docstring."""
    del arguments
    own = ("--kills", "--seed", "--out")
    given = [argument for argument in sys.argv[1:] if not argument.startswith(own)]
    out = flags.FLAGS.out
    if flags.FLAGS.config is None:
        raise UserError("--config=FILE is missing, for example configs/eanet_digits.py")
    with tempfile.TemporaryDirectory() as directory:
        found = verify(
            given,
            Path(directory),
            kills=flags.FLAGS.kills,
            seed=flags.FLAGS.seed,
            log=functools.partial(print, flush=True),
        )
    same = all(end == found["left_alone"] for end in found["stopped"])
    for part, digest in found["left_alone"].items():
        verdict = all(end.get(part) == digest for end in found["stopped"])
        print(f"{part:<10} {digest[:16]}  {'the same' if verdict else 'DIFFERENT'}")
    print(", ".join(f"{count} {kind}" for kind, count in found["stops"].items()))
    if out:
        record = {"arguments": given, "seed": flags.FLAGS.seed, "same": same, **found}
        write_atomically(out, strict_json(record | environment(), indent=1))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    config_flags.DEFINE_config()
    flags.DEFINE_integer("kills", 5, "How often to stop.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the moments and signals.")
    flags.DEFINE_string("out", None, "Write stops and digests to this file, as JSON.")
    config_flags.run(main)
