"""Processes that decode images for this one, and end with it.

Each is started as `python -m eanet.data.worker`, so that it holds nothing of this process, neither
JAX nor its memory. It is asked through a pipe and answers through another, which needs no shared
memory, of which containers have little. As its input ends with this process, so does it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from eanet.data.base import Recipe, Reference, budget
from eanet.data.crop import Crop
from eanet.data.images import workers_within
from eanet.errors import UserError
from eanet.host import cores

_ROOT = str(Path(__file__).parents[2])
_ADVICE = "where memory is short, let the program use fewer cores (taskset)"


class Workers:
    """As many processes as there are cores and memory for, or as `count` says, while in use."""

    def __init__(self, recipe: Recipe, count: int | None = None):
        self.recipe = recipe
        sides = map(max, recipe.largest, recipe.image_shape[:2])
        self._count = count or min(cores(), workers_within(recipe.memory(budget()), *sides))
        self._lock = threading.Lock()
        self._users = 0
        self._pool: _Pool | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Within it examples can be asked for; contexts may overlap, and share the processes."""
        with self._lock:
            self._pool = self._pool or _Pool(self.recipe, self._count)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                ended = None if self._users else self._pool
                self._pool = self._pool if self._users else None
            if ended:
                ended.close()

    def submit(
        self,
        what: str,
        references: Sequence[Reference],
        out: np.ndarray,
        digests: Sequence[str] | None = None,
        crops: Sequence[Crop] | None = None,
    ) -> "Future[None]":
        """Has a worker fill `out`, one entry for each example, see `eanet.data.reading.look`.

        The result raises `UserError` for an example that cannot be read, or where a worker died.
        """
        assert self._pool, "nothing is running"
        question = {"what": what, "references": references, "digests": digests, "crops": crops}
        return self._pool.threads.submit(self._pool.ask, question, out)


class _Pool:
    """Threads, each of which has a process."""

    def __init__(self, recipe: Recipe, count: int):
        self._recipe = recipe
        self._lock, self._own = threading.Lock(), threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._turn: IO[bytes] | None = None  # by which they take turns, see `eanet.data.turn`
        self._closed = False
        self.threads = ThreadPoolExecutor(count, "decoding")

    def ask(self, question: Mapping[str, Any], out: np.ndarray) -> None:
        worker = self._worker()
        answers: Any = worker.stdout
        line = b""
        with contextlib.suppress(BrokenPipeError):
            _tell(worker, question)
            line = answers.readline()
        error = json.loads(line) if line else self._death(worker)
        if error:
            raise UserError(error)
        content = out.reshape(-1).view(np.uint8).data
        if answers.readinto(content) != len(content):
            raise UserError(self._death(worker))

    def close(self) -> None:
        """Ends all processes at once: they have nothing to lose."""
        with self._lock:
            self._closed = True
        for process in self._processes:
            process.kill()
        self.threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()
        if self._turn:
            self._turn.close()

    def _worker(self) -> subprocess.Popen[bytes]:
        if not hasattr(self._own, "worker"):
            with self._lock:
                if self._closed:
                    raise UserError("interrupted")
                try:
                    self._turn = self._turn or tempfile.TemporaryFile()  # noqa: SIM115
                    self._own.worker = _start(self._recipe, self._turn.fileno())
                except OSError as error:
                    reason = error.strerror or error
                    raise UserError(
                        f"a process that decodes images cannot be started: {reason}; {_ADVICE}"
                    ) from None
                self._processes.append(self._own.worker)
        return self._own.worker

    def _death(self, worker: subprocess.Popen[bytes]) -> str:
        del self._own.worker  # the next task gets another one
        return f"a process that decodes images ended with code {worker.wait()}; {_ADVICE}"


def _start(recipe: Recipe, turn: int) -> subprocess.Popen[bytes]:
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "eanet.data.worker", str(turn)],
        pass_fds=[turn],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # signals of the terminal are for this process
    )
    _tell(worker, asdict(recipe))
    return worker


def _tell(worker: subprocess.Popen[bytes], message: Any) -> None:
    assert worker.stdin
    worker.stdin.write(json.dumps(message).encode() + b"\n")
    worker.stdin.flush()
