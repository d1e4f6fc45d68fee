"""What computes: the devices, the versions of the software, the commit of this project."""

import contextlib
import functools
import hashlib
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def environment() -> dict[str, Any]:
    """What computes; neither the name of the host nor that of its user is in it.

    Returns:
      device: as `device` names all that JAX has.
      versions: package name to version, with Python's.
      git_commit: the commit of this project; None where it is no git checkout.
      git_dirty: whether a tracked file differs from that commit; None likewise.
    """
    commit, dirty = _git_state()
    return {"device": device(), "versions": versions(), "git_commit": commit, "git_dirty": dirty}


def device(devices: Iterable[Any] = ()) -> str:
    """Devices, all that JAX has by default, such as "2 × cpu (AMD EPYC 9R14)".

    Those of several processes end in " in 2 processes".
    """
    import jax

    devices = list(devices) or jax.devices()
    name = f"{len(devices)} × {devices[0].device_kind}"
    if devices[0].platform == "cpu" and (model := _cpu_model()):
        name += f" ({model})"
    processes = len({each.process_index for each in devices})
    return f"{name} in {processes} processes" if processes > 1 else name


def versions() -> dict[str, str]:
    """The version of Python and of each package that computes."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def code() -> str:
    """A digest of this program's own files."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*root.glob("eanet/**/*.py"), root / "main.py", root / "train.py"]):
        with contextlib.suppress(OSError):  # not of an installed package
            digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _cpu_model() -> str:
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


@functools.cache
def _git_state() -> tuple[str | None, bool | None]:
    """The commit as it was when first asked for, and whether tracked files differed from it."""
    source = Path(__file__).resolve()
    # A copy installed somewhere inside another project's checkout is not of that project.
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None, None
    commit = _git(source.parent, "rev-parse", "HEAD")
    changes = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return commit or None, None if changes is None else bool(changes)


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
