"""`python main.py` as its user starts it, and as a fork, which saves the seconds of all imports."""

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import pytest

from tests.helpers.pictures import leave_undrawn

ROOT = Path(__file__).parents[2]
MAIN = str(ROOT / "main.py")
_SECONDS = 300

# What `main.py` imports, and what `eanet.host.set_up` sets before it does.
_IMPORTS = [
    "train",
    "eanet.inference.predict",
    "eanet.sweeps.command",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
]
_SETTINGS = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}


def environment() -> dict[str, str]:
    """Without the user's settings, but with the caches and the devices of all tests."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    for name in ("TFDS_DATA_DIR", "XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL"):
        keep.pop(name, None)
    compiled = os.environ["JAX_COMPILATION_CACHE_DIR"]
    return keep | {
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONUTF8": "1",
    }


def start_main(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Starts `main.py` with these arguments and waits for its end."""
    return start_python(MAIN, *arguments)


def start_python(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Starts Python with these arguments, in the checkout, and waits for its end.

    Args:
      arguments: Of its command line.
      **variables: Of its environment, beside those of `environment`.
    """
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )


def fork_main(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in a fork of a process that has imported everything and done nothing.

    Its pictures are empty.
    """
    given = [MAIN, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as directory:
        out, error = (Path(directory) / name for name in ("out", "error"))
        process = _server().Process(target=_main, args=(given, out, error))
        process.start()
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(given, _SECONDS)
        said = (path.read_bytes().decode() for path in (out, error))
        return subprocess.CompletedProcess(given, process.exitcode, *said)


@functools.cache
def _server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTS)
    with mock.patch.dict(os.environ, environment() | _SETTINGS, clear=True):
        forkserver.ensure_running()
    return context


def _main(arguments: list[str], out: Path, error: Path) -> None:
    os.chdir(ROOT)
    for descriptor, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    leave_undrawn(pytest.MonkeyPatch())
    sys.argv = arguments
    runpy.run_path(MAIN, run_name="__main__")
