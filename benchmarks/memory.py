"""The memory of a process and of those that it starts, over time; of Linux."""

import contextlib
import re
import subprocess
import time
from pathlib import Path

from eanet.errors import UserError


def watch(process: "subprocess.Popen[str]") -> list[dict[str, float]]:
    """Megabytes by seconds, to the end of the process.

    Raises:
      UserError: it failed.
    """
    start, points = time.monotonic(), []
    while process.poll() is None:
        own = _status(process.pid)
        workers = [_status(int(pid)) for pid in _children(process.pid)]
        points.append(
            {
                "seconds": time.monotonic() - start,
                "counted": own["VmData"],
                "resident": own["VmRSS"],
                "workers": sum(each["VmRSS"] for each in workers),
            }
        )
        time.sleep(0.5)
    _, error = process.communicate()
    if process.returncode:
        raise UserError(f"it ended with code {process.returncode}: {error[-300:].strip()}")
    return points


def _status(pid: int) -> dict[str, float]:
    """Megabytes of a process, all 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        text = ""
    found = {name: float(value) / 1e3 for name, value in re.findall(r"(Vm\w+):\s+(\d+) kB", text)}
    return {name: found.get(name, 0.0) * 1.024 for name in ("VmData", "VmRSS")}


def _children(pid: int) -> list[str]:
    """Of all threads of a process."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += file.read_text().split()
    return found
