"""One run of a sweep as a process of its own, so that nothing it does takes the others down."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eanet import files
from eanet.host import Share

LOG = "train.log"
_INTERRUPTED = {128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM}


class Exit(NamedTuple):
    """How a process ended."""

    kind: str  # "ok", "interrupted" (asked to stop), "crashed" (the system ended it) or "failed"
    reason: str = ""  # for the last two, one line


class RunProcess:
    """A process that trains in a workdir; what it says is appended to `train.log` there.

    It gets a pipe as its standard input, and must stop in order when that ends: on `stop`, and
    when this process is gone. It inherits the descriptor of the lock on the run, which lasts as
    long as the process.
    """

    def __init__(self, command: Sequence[str], workdir: Path, share: Share, inherit: int):
        self._log = workdir / LOG
        append = files.open_regular(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with open(append, "ab") as log:
            self._log_start = log.tell()
            with share.on_cores():
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=share.environment,
                    pass_fds=[inherit],
                    start_new_session=True,  # Ctrl-C is this process's to pass on, once
                )

    def stop(self) -> None:
        """Asks the process to save its state and end."""
        if self._process.stdin:
            self._process.stdin.close()

    def wait(self) -> None:
        """Until the process has ended."""
        self._process.wait()

    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        self.stop()
        if code == 0:
            return Exit("ok")
        if code in _INTERRUPTED:
            return Exit("interrupted")
        if code < 0:
            return Exit("crashed", f"killed by {signal.Signals(-code).name}")
        return Exit("failed", self._last_words() or f"exit code {code}")

    def _last_words(self) -> str:
        """The line that says what was wrong."""
        with open(files.open_regular(self._log), "rb") as log:
            log.seek(max(self._log_start, os.fstat(log.fileno()).st_size - 20_000))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
        # The message of an exception may go on for lines after the one that names it.
        telling = [line for line in lines if re.match(r"(error:|[\w.]*(Error|Exception)\b)", line)]
        words = (telling or list(filter(None, lines)) or [""])[-1]
        return words.removeprefix("error: ")[:500]
