"""What the host process needs before JAX starts, so that it starts and computes fast.

None of it changes the mathematics, and settings that the user has made in the environment stay.
What each is worth is measured in docs/performance.md.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eanet import files
from eanet.errors import UserError, as_line

# More devices than this would each hold a copy of the data for little gain.
_MAX_CPU_DEVICES = 8

_DEVICES_FLAG = "xla_force_host_platform_device_count"
_DETERMINISTIC_FLAG = "xla_gpu_deterministic_ops"

# The share of a GPU's memory that JAX takes for a process, by its newer and its older name, and
# what it takes unasked: the rest is for what each process holds of the GPU besides.
_FRACTIONS, _FRACTION = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"), 0.75

# Settings that a record of results names: they may change its last digits.
_RECORDED = (
    "GLIBC_TUNABLES",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_NUM_CPU_DEVICES",
    "JAX_PLATFORMS",
    "NVIDIA_TF32_OVERRIDE",
    *_FRACTIONS,
    "XLA_FLAGS",
)

# How many processes of this machine share its memory, see `share`.
_TOGETHER = "EANET_PROCESSES_TOGETHER"

_ACCELERATORS = {"/dev/nvidia0": "an NVIDIA GPU", "/dev/kfd": "an AMD GPU", "/dev/accel0": "a TPU"}

# What `set_up` has put into the environment for this process alone.
_chosen_here: set[str] = set()


def set_up(cpu_devices: bool = True, deterministic: bool = False, workers: int = 0) -> None:
    """Sets the environment for JAX; call it before jax is imported.

    Two devices of one thread each compute faster than one device with two threads, so every core
    becomes a device, where `cpu_devices` is true and the user says nothing else of CPU devices.
    Compiled programs are kept for later starts. The workers of a sweep that share a GPU each have
    their part of its memory, and this process, which only starts them, takes none in advance.

    Args:
      cpu_devices: whether to make a device of each core.
      deterministic: whether a GPU shall add up in the same order each time.
      workers: how many processes this one will start at a time; 0 where it computes itself.

    Raises:
      UserError: what is asked for contradicts the environment, or is for a GPU alone.
    """
    accelerator = _accelerator()
    if deterministic:
        _set_deterministic()
    if accelerator and workers:
        _share_memory(workers)
    # A full disk need not be told of a cache; it will be of what is not saved.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    # On some processors XLA:CPU takes its own tuning flags for missing instructions, and says so at
    # length for every program that it reads from the cache; what fails, JAX raises all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if accelerator else "3")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (cache := _compilation_cache()):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        logger = logging.getLogger("jax._src.compiler")
        logger.setLevel(logging.DEBUG)  # its filters see nothing else
        logger.addFilter(_RemovesUnreadable(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or _DEVICES_FLAG in os.environ.get("XLA_FLAGS", "")
    if cpu_devices and not accelerator and not chosen:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(_cpu_devices(1))
        _chosen_here.add("JAX_NUM_CPU_DEVICES")


def import_jax() -> None:
    """Imports JAX; raises `UserError` for a setting of the environment that it does not take."""
    _check_xla_flags()
    if os.environ.get("JAX_NUM_CPU_DEVICES") == "0" and not _accelerator():
        raise UserError("JAX_NUM_CPU_DEVICES=0 leaves no device: set 1 or more, or unset it")
    try:
        import jax  # noqa: F401
    except ValueError as error:
        raise UserError(f"JAX does not take a setting of the environment: {error}") from None


@dataclass(frozen=True)
class Share:
    """What one of several processes on this machine may use."""

    cores: frozenset[int] | None  # by number; None where the system does not let one choose
    environment: dict[str, str]  # of the process, all of it

    @contextlib.contextmanager
    def on_cores(self) -> Iterator[None]:
        """Processes that are started meanwhile run on these cores alone."""
        if self.cores is None:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def share(index: int, count: int) -> Share:
    """The part of process `index` of `count`: its own cores, or an NVIDIA device, or part of one.

    Of the machine's memory it is the same part, see `physical_memory`.

    Raises `UserError` where that is more memory of a device than there is.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _chosen_here}
    environment[_TOGETHER] = str(count)
    if accelerator := _accelerator():
        if accelerator == "tpu" and count > 1:
            raise UserError("one process has all of a TPU: start one alone")
        name, each = _memory_fraction()
        if name and each * _workers_per_device(count) > 1:
            raise UserError(
                f"{_workers_per_device(count)} processes on a GPU with {name}={each:g} of its "
                "memory each are more than it has: unset that, or start fewer"
            )
        if devices := _nvidia_devices():
            environment["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
        return Share(None, environment)
    if not hasattr(os, "sched_getaffinity"):
        environment.setdefault("JAX_NUM_CPU_DEVICES", str(_cpu_devices(count)))
        return Share(None, environment)
    cores = sorted(os.sched_getaffinity(0))
    own = cores[len(cores) * index // count : len(cores) * (index + 1) // count]
    return Share(frozenset(own or [cores[index % len(cores)]]), environment)


def gpus() -> int:
    """How many NVIDIA GPUs `share` deals out; 0 where JAX computes on something else."""
    return len(_nvidia_devices()) if _accelerator() == "gpu" else 0


def devices_of_share(count: int) -> float:
    """How many devices each of `count` processes has, see `share`; less than 1 of a shared core."""
    if _accelerator():
        return 1.0 / _workers_per_device(count)
    return min(cores() / count, _MAX_CPU_DEVICES)


def settings() -> dict[str, str]:
    """The settings in force, for the record of a run."""
    return {name: os.environ[name] for name in _RECORDED if name in os.environ}


def physical_memory() -> int:
    """Bytes of memory that this process may use: this machine's, or fewer where it has a limit.

    That is one of its container, or of its own (`ulimit -d` and `ulimit -v`). Of several processes
    that were started together on this machine each may use an equal part.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _memory_limits():
        with contextlib.suppress(OSError, ValueError):  # there is none; "max"
            limits.append(int(file.read_text()))
    together = os.environ.get(_TOGETHER, "")
    part = min(limits) // (max(1, int(together)) if together.isdecimal() else 1)
    own = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS))
    return min([part, *(limit for limit in own if limit != resource.RLIM_INFINITY)])


def unused_accelerator() -> str:
    """What to tell where a GPU is in this machine and JAX computes on the CPU unasked; or ""."""
    import jax

    asked = os.environ.get("JAX_PLATFORMS") or os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    found = next((name for path, name in _ACCELERATORS.items() if os.path.exists(path)), None)
    if asked or found is None or jax.default_backend() != "cpu":
        return ""
    return (
        f"{found} is in this machine, but JAX computes on the CPU: README.md, Install, says how to "
        "install JAX for it; JAX_PLATFORMS=cpu says that this is meant"
    )


class _RemovesUnreadable(logging.Filter):
    """Removes a compiled program that JAX could not read: JAX never replaces one.

    It logs a miss, as for one that is not there, before it compiles and writes it.
    """

    def __init__(self, cache: Path):
        super().__init__()
        self._cache = cache

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a record, as if the logger's level were WARNING."""
        if "CACHE MISS" in str(record.msg) and isinstance(record.args, tuple):
            (self._cache / f"{record.args[-1]}-cache").unlink(missing_ok=True)
        return record.levelno >= logging.WARNING


def _compilation_cache() -> Path | None:
    """Where compiled programs are kept, apart for each kind of processor; None for nowhere.

    What lies there is executed, so that it must be this user's, and no one else may write to it.
    """
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or files.home() / ".cache")
        cache = root / "eanet" / f"compiled-{processor}"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = cache.stat()
    except OSError:  # it cannot be written, or the user has no home
        return None
    if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
        return cache
    note = f"compiled programs are not kept: {cache} is another user's or others may write to it"
    print(as_line(f"note: {note}"), file=sys.stderr)
    return None


def _memory_limits() -> list[Path]:
    """The files in which Linux tells the limits of this process's control groups, old and new."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = root / next((line[4:] for line in lines if line.startswith("0::/")), "")
    groups = [own, *own.parents]
    return [*(group / "memory.max" for group in groups), root / "memory/memory.limit_in_bytes"]


def _processor() -> str:
    """Model and instruction sets of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() + platform.machine()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    )


def _cpu_devices(processes: int) -> int:
    """How many devices each of several processes makes of the cores that this one may use."""
    return min(max(1, cores() // processes), _MAX_CPU_DEVICES)


def cores() -> int:
    """How many cores this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def memory_setting() -> str:
    """What of a GPU's memory this process has, as set in its environment; or ""."""
    name, fraction = _memory_fraction()
    return f"{name}={fraction:g}" if name else ""


def _check_xla_flags() -> None:
    """XLA ends the process at a flag that it does not take, so another one tries them."""
    flags = os.environ.get("XLA_FLAGS", "")
    if not flags:
        return
    code = "from jaxlib import xla_client; xla_client.CompileOptions()"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"}
    tried = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, errors="replace"
    )
    said = tried.stderr.partition("\n")[0].partition("] ")[2].rstrip(".")  # after date and place
    if tried.returncode and said:
        raise UserError(f"XLA does not take XLA_FLAGS={flags}: {said}; correct or unset it")
    if f"--{_DEVICES_FLAG}=0" in flags.split() and not _accelerator():
        raise UserError(f"XLA_FLAGS={flags} leaves no device: set 1 or more, or unset it")


def _set_deterministic() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if _accelerator() != "gpu":
        where = "a TPU" if _accelerator() else "a CPU"
        raise UserError(
            f"--deterministic is for a GPU; {where} computes the same bytes each time without it"
        )
    if f"{_DETERMINISTIC_FLAG}=false" in flags:
        raise UserError(f"--deterministic contradicts {_DETERMINISTIC_FLAG}=false in XLA_FLAGS")
    if _DETERMINISTIC_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_DETERMINISTIC_FLAG}=true".strip()


def _share_memory(workers: int) -> None:
    if "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        _chosen_here.add("XLA_PYTHON_CLIENT_PREALLOCATE")
    together = _workers_per_device(workers)
    if together > 1 and not _memory_fraction()[0]:
        os.environ[_FRACTIONS[0]] = f"{_FRACTION / together:.3f}"


def _memory_fraction() -> tuple[str, float]:
    """Name and value of the setting that is there; "" and what JAX takes where none is."""
    name = next((name for name in _FRACTIONS if os.environ.get(name)), "")
    try:
        return name, float(os.environ[name]) if name else _FRACTION
    except ValueError:
        raise UserError(f"{name}={os.environ[name]} is no number; as in {name}=0.5") from None


def _workers_per_device(workers: int) -> int:
    return -(-workers // max(1, len(_nvidia_devices())))


def _nvidia_devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def _accelerator() -> str:
    """What JAX will start on, "gpu" or "tpu", as far as one sees without it; "" for the CPU."""
    if platforms := os.environ.get("JAX_PLATFORMS", ""):
        first = platforms.split(",")[0]
        return {"cpu": "", "tpu": "tpu"}.get(first, "gpu")
    names = {str(d.name).lower().replace("_", "-") for d in importlib.metadata.distributions()}
    if "libtpu" in names:
        return "tpu"
    plugins = (name for name in names if name.startswith("jax-") and name.endswith("-plugin"))
    return "gpu" if any(plugins) else ""
