"""What the host process needs before JAX starts, so that it starts and computes fast.

None of it changes the mathematics. `--nohost_setup` leaves out what is for the CPU alone, and
settings that the user has made in the environment stay. What each is worth is measured in
docs/performance.md.
"""

import hashlib
import importlib.metadata
import os
import platform
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from eanet.errors import UserError

# More devices than this would each hold a copy of the data for little gain.
_MAX_CPU_DEVICES = 8

# What `set_up` has put into the environment for this process alone.
_chosen_here: set[str] = set()


def set_up() -> None:
    """Sets the environment for JAX; call it before jax is imported.

    Two devices of one thread each compute faster than one device with two threads, so every core
    becomes a device. Compiled programs are kept for later starts.
    """
    accelerator = _has_accelerator()
    # A full disk need not be told of a cache; it will be of what is not saved.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    # On some processors XLA:CPU takes its own tuning flags for missing instructions, and says so at
    # length for every program that it reads from the cache; what fails, JAX raises all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if accelerator else "3")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_compilation_cache()))
    os.environ.setdefault("JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    off = "--nohost_setup" in sys.argv or "--host_setup=false" in sys.argv or accelerator
    if not off and "JAX_NUM_CPU_DEVICES" not in os.environ:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(_cpu_devices(_usable_cores()))
        _chosen_here.add("JAX_NUM_CPU_DEVICES")


@dataclass(frozen=True)
class Share:
    """What one of several processes on this machine may use.

    Attributes:
      cores: their numbers; None where the system does not let one choose.
      environment: of the process, all of it.
    """

    cores: frozenset[int] | None
    environment: dict[str, str]


def share(index: int, count: int) -> Share:
    """The part of process `index` of `count`: its own cores, or its own NVIDIA device.

    Raises:
      UserError: there are fewer devices than processes.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _chosen_here}
    if _has_accelerator():
        devices = _nvidia_devices()
        if devices and count > len(devices):
            raise UserError(f"{count} workers need a device each, but there are {len(devices)}")
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[index]
        return Share(None, environment)
    if not hasattr(os, "sched_getaffinity"):
        devices_each = _cpu_devices(max(1, _usable_cores() // count))
        environment.setdefault("JAX_NUM_CPU_DEVICES", str(devices_each))
        return Share(None, environment)
    cores = sorted(os.sched_getaffinity(0))
    own = cores[len(cores) * index // count : len(cores) * (index + 1) // count]
    return Share(frozenset(own or [cores[index % len(cores)]]), environment)


def settings() -> dict[str, str]:
    """The settings in force, for the record of a run."""
    names = ("GLIBC_TUNABLES", "JAX_NUM_CPU_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS")
    return {name: os.environ[name] for name in names if name in os.environ}


def physical_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _compilation_cache() -> Path:
    """Compiled programs, apart for each kind of processor: code for one may not run on another."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return root / "eanet" / f"compiled-{processor}"


def _processor() -> str:
    """Model and instruction sets of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() + platform.machine()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    )


def _cpu_devices(cores: int) -> int:
    return min(cores, _MAX_CPU_DEVICES)


def _nvidia_devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _has_accelerator() -> bool:
    """Whether JAX will start on something else than the CPU, as far as one sees without it."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] != "cpu"
    names = {str(d.name).lower().replace("_", "-") for d in importlib.metadata.distributions()}
    return any(
        name == "libtpu" or (name.startswith("jax-") and name.endswith("-plugin")) for name in names
    )
