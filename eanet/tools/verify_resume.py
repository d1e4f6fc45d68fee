"""Proves that a run which is stopped and started again ends as one that was not.

One run is left alone; another is stopped at random moments, most often by SIGKILL, a quarter of the
time while it saves, and started again; where it comes to its end before it was stopped often
enough, one more follows. With --processes=N each run is N processes on this machine, of which a
random one is stopped; all of them end, and start again. Then the digests of all parameters,
optimizer state and averages, and of the metrics but for the speed, are compared. Exit code 0: the
same bytes; 1: not.
"""

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

from eanet import files
from eanet.checkpoints import storage
from eanet.checkpoints.manager import Checkpoints
from eanet.cli import in_checkout, say
from eanet.config_flags import ConfigParser
from eanet.environment import environment
from eanet.errors import PEER_ENDED, UserError
from eanet.tools import launch
from eanet.training import config_schema
from eanet.workdir.log import read

# How and when to stop, each as often as it stands here.
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_MOMENTS = ("while starting", "while training", "while training", "while saving")
# Runs in a row that may end before the moment to stop them.
_MOST_MISSED = 3
# A stop while saving comes at most so many seconds after the save began.
_SAVING_SECONDS = 0.05
# Seconds after which processes notice that one of them has been killed.
_HEARTBEAT_TIMEOUT = 10


def main(arguments: list[str], prog: str) -> int:
    """The command `verify-resume`."""
    parser = ConfigParser(prog, __doc__)
    parser.add_argument("--kills", type=int, default=5, metavar="K", help="how often to stop")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that train together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--out", metavar="FILE", help="write stops and digests as JSON")
    options, config, given = parser.parse(arguments)
    if options.kills < 1:
        parser.error(f"--kills={options.kills} must be at least 1")
    if options.processes < 1:
        parser.error(f"--processes={options.processes} must be at least 1")
    config_schema.check(config)
    if options.out:
        files.check_place(Path(options.out), "choose another --out")
    command = [sys.executable, str(in_checkout("main.py", "run this command there")), *given]
    with tempfile.TemporaryDirectory() as directory:
        started = functools.partial(_Run, command, options.processes)
        found = _verify(started, Path(directory), options.kills, options.seed)
    same = all(end == found["left_alone"] for end in found["stopped"])
    for part, digest in found["left_alone"].items():
        verdict = all(end.get(part) == digest for end in found["stopped"])
        say(f"{part:<10} {digest[:16]}  {'the same' if verdict else 'DIFFERENT'}")
    say(", ".join(f"{count} {kind}" for kind, count in found["stops"].items()))
    if options.out:
        asked = {"arguments": given, "processes": options.processes, "seed": options.seed}
        record = {**asked, "same": same, **found}
        files.write_json(options.out, record | environment())
    return 0 if same else 1


def _verify(
    started: Callable[[Path], "_Run"], directory: Path, kills: int, seed: int
) -> dict[str, Any]:
    """Runs a training left alone and stopped, in workdirs below an empty directory.

    Returns how often it was stopped, by signal and by moment, and the digests of the ends.
    """
    left_alone = started(directory / "left_alone")
    left_alone.wait_until_training()
    began = time.monotonic()
    left_alone.end_with(0)
    seconds = time.monotonic() - began
    say(f"left alone: {seconds:.1f} s of training")

    draw = random.Random(seed)
    ends: list[dict[str, str]] = []
    stops: collections.Counter[str] = collections.Counter()
    missed = 0
    while stops["in all"] < kills:
        before = stops["in all"]
        disturbed = started(directory / f"stopped_{len(ends) + 1}")
        while stops["in all"] < kills:
            with_signal, moment = draw.choice(_SIGNALS), draw.choice(_MOMENTS)
            if not disturbed.wait_for(moment, draw.uniform(0, 2 * seconds / (kills + 1))):
                break
            member = disturbed.send_signal(with_signal, draw)
            disturbed.end_with(128 + with_signal, PEER_ENDED, 0)
            stops.update(("in all", moment, with_signal.name, *member))
            to = "".join(f" to {each}" for each in member)
            say(f"stop {stops['in all']} of {kills}: {with_signal.name}{to} {moment}")
            disturbed.start()
        disturbed.end_with(0)
        ends.append(digests(disturbed.workdir))
        if stops["in all"] > before:
            missed = 0
            continue
        # A machine that others use too may be faster now than while the run was left alone.
        missed, seconds = missed + 1, seconds / 2
        if missed == _MOST_MISSED:
            raise UserError("the run ends before it can be stopped; raise num_epochs")
    return {"stops": dict(stops), "left_alone": digests(left_alone.workdir), "stopped": ends}


def digests(workdir: Path) -> dict[str, str]:
    """SHA-256 of the newest checkpoint's tensors, by part of the state, and of the metrics."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        tensors = checkpoints.arrays("latest")
    parts: dict[str, dict[str, Any]] = {}
    for name, tensor in sorted(tensors.items()):
        parts.setdefault(name.split("/")[0], {})[name] = tensor
    lines = read(workdir / "metrics.jsonl")
    for line in lines:
        line.pop("images_per_second", None)  # what a clock has measured is not the same twice
    found = {part: storage.digest(named) for part, named in parts.items()}
    return found | {"metrics": hashlib.sha256(json.dumps(lines).encode()).hexdigest()}


class _Run:
    """`main.py` in processes of its own, from now on and again and again on one workdir."""

    def __init__(self, command: Sequence[str], processes: int, workdir: Path):
        self.workdir = workdir
        self._command = [*command, f"--workdir={workdir}"]
        self._count = processes
        self._said = workdir.with_suffix(".txt")
        self.start()

    def start(self) -> None:
        with self._said.open("wb") as said:
            if self._count > 1:
                soon = f"--heartbeat_timeout={_HEARTBEAT_TIMEOUT}"
                self._processes = launch.start([*self._command, soon], self._count, said)
            else:
                self._processes = [subprocess.Popen(self._command, stdout=said, stderr=said)]

    def send_signal(self, number: signal.Signals, draw: random.Random) -> list[str]:
        """Sends it to one of the processes, and names that where there are several."""
        index = draw.randrange(self._count) if self._count > 1 else 0
        self._processes[index].send_signal(number)
        return [f"process {index}"] if self._count > 1 else []

    def end_with(self, *codes: int) -> None:
        """Waits for the end of all processes; refuses any other exit code."""
        code = launch.outcome(self._processes)
        if code not in codes:
            last = self._said.read_text(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"main.py ended with code {code}: {' '.join(last)}")

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
        while not condition():
            if any(process.poll() is not None for process in self._processes):
                return False
            time.sleep(0.001)
        return True
