"""What training ends with by several numbers of processes and devices, on the tiny config.

python -m docs.compare_processes    # writes docs/reliability/processes.json, prints its table
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from eanet import files
from eanet.checkpoints.manager import Checkpoints
from eanet.environment import environment
from eanet.tools import launch
from eanet.tools.verify_resume import digests

HERE = Path(__file__).parent
RECORD = HERE / "reliability/processes.json"
COMMAND = [sys.executable, str(HERE.parent / "main.py"), "--config=configs/testing.py"]
# Processes, and devices of each.
CASES = ((1, 1), (1, 2), (2, 1), (1, 4), (4, 1))


def train(processes: int, devices: int, workdir: Path) -> None:
    """Trains in this workdir; raises `RuntimeError` where that fails."""
    command = [*COMMAND, f"--workdir={workdir}"]
    with mock.patch.dict(os.environ, JAX_NUM_CPU_DEVICES=str(devices)):
        if processes > 1:
            code = launch.outcome(launch.start(command, processes, sys.stderr.buffer))
        else:
            code = subprocess.run(command, stdout=sys.stderr).returncode
    if code:
        raise RuntimeError(f"{processes} processes of {devices} devices ended with code {code}")


def parameters(workdir: Path) -> dict[str, np.ndarray]:
    """Those of the newest checkpoint by their names."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        tensors = checkpoints.arrays("latest")
    return {name: value for name, value in tensors.items() if name.startswith("params/")}


def measure() -> list[dict[str, Any]]:
    """What training ends with in each case."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        first = Path(directory) / "0"
        for number, (processes, devices) in enumerate(CASES):
            workdir = Path(directory) / str(number)
            train(processes, devices, workdir)
            alone, here = parameters(first), parameters(workdir)
            results = json.loads((workdir / "results_test.json").read_text())
            row = {
                "processes": processes,
                "devices": devices,
                "sha256": digests(workdir),
                "differences": {
                    name.removeprefix("params/"): float(np.abs(alone[name] - here[name]).max())
                    for name in alone
                },
                "steps": results["step"],
                "test": {name: results[name] for name in ("loss", "accuracy")},
            }
            rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """All of them as Markdown."""
    lines = [
        "| processes × devices | parameters, SHA-256 | metrics, SHA-256 | differ most from 1 × 1 "
        "| the rest | test loss | test accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        (name, most), (_, second) = sorted(row["differences"].items(), key=lambda it: -it[1])[:2]
        cells = [
            f"{row['processes']} × {row['devices']}",
            *(f"`{row['sha256'][part][:8]}`" for part in ("params", "metrics")),
            f"{most:.1e}, `{name}`" if most else "0",
            f"{second:.1e}" if second else "0",
            f"{row['test']['loss']:.7f}",
            f"{100 * row['test']['accuracy']:.2f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = measure()
    files.write_json(RECORD, {"command": COMMAND[2:], "cases": found} | environment())
    print(table(found))
