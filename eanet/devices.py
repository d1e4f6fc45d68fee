"""Data parallelism over all local devices: the batch is split, everything else replicated."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eanet.errors import UserError
from eanet.host import memory_setting, physical_memory

BATCH_AXIS = "batch"

# Bytes of a server's caches that a core may count on: of its own second one, of the last one.
SECOND_CACHE, LAST_CACHE = 2**20, 2**23

_LESS_MEMORY = (
    "lower model.embed_dim, model.depth, model.num_heads, model.head_dim, model.memory_size, "
    "model.mlp_dim or microbatch_size"
)

# Settings of JAX that change what is computed, and the values that this program is written for.
_SETTINGS = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
}


def check_settings() -> None:
    """Raises `UserError` for a setting of JAX under which a run would be another, or break."""
    for name, needed in _SETTINGS.items():
        value = getattr(jax.config, name)
        if value != needed:
            raise UserError(
                f"JAX is set to {name}={value}, which changes what is computed; {name}={needed} is "
                f"needed: unset {name.upper()} in the environment"
            )


def local_devices() -> list[jax.Device]:
    """The devices of this machine; `UserError` without any, or those that the environment names."""
    try:
        return jax.local_devices()
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise UserError(f"JAX finds no device: {first}; see README.md, Install") from None


def make_mesh(batch_size: int) -> Mesh:
    """A mesh of as many local devices as divide the batch evenly; raises as `local_devices`."""
    devices = local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return jax.make_mesh((count,), (BATCH_AXIS,), (AxisType.Auto,), devices=devices[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of an array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Every device holds an equal part of the first axis."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of arrays to every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


def microbatch(mesh: Mesh, batch_size: int, microbatch_size: int, images_at_once: int) -> int:
    """How many images a device takes through the model at once; divides its share of the batch.

    Args:
      mesh: the devices.
      batch_size: of all devices together; a multiple of their number.
      microbatch_size: of all devices together; 0 takes the default.
      images_at_once: the default, of one device, see `eanet.platforms`.
    """
    share = batch_size // mesh.size
    wanted = max(1, microbatch_size // mesh.size) if microbatch_size else images_at_once
    return max(n for n in range(1, min(wanted, share) + 1) if share % n == 0)


def fits(model: int, data: int, mesh: Mesh) -> bool:
    """Whether a device of the mesh may hold both, see `check_memory`."""
    return model + data <= _available(data, mesh)


def check_memory(model: int, data: int, mesh: Mesh) -> None:
    """Raises `UserError` for what cannot fit on a device of the mesh.

    Args:
      model: bytes that a model needs at least on a device, with all that goes with it.
      data: bytes of the examples, of which each device has a copy, and this process one.
      mesh: the devices; those of the CPU share the memory of the process.
    """
    if not fits(model, data, mesh):
        available = _available(data, mesh)
        on_device = mesh.devices.flat[0].memory_stats()
        part = f" by {setting}" if (setting := memory_setting()) and on_device else ""
        ways = [_LESS_MEMORY]
        if data:
            ways += ["take fewer or smaller images", "do without dataset.streaming=False"]
        if part:
            ways += ["start fewer --workers"]
        raise UserError(
            f"this model needs at least {model / 1e9:,.1f} GB of memory and the training data "
            f"{data / 1e9:,.1f} GB, but a device has {max(0, available) / 1e9:,.1f} GB{part}; "
            f"{', or '.join(ways)}"
        )


def _available(data: int, mesh: Mesh) -> int:
    statistics = mesh.devices.flat[0].memory_stats() or {}
    return statistics.get("bytes_limit", (physical_memory() - data) // mesh.size)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Around training or evaluation: devices, settings or memory that do not suffice are one line.

    Raises `UserError` as `check_settings` and `local_devices`, or where memory ran out.
    """
    check_settings()
    local_devices()  # before anything long is begun
    try:
        yield
    except MemoryError as error:
        raise UserError(f"out of memory ({error}); {_LESS_MEMORY}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"{str(error).splitlines()[0]} {_LESS_MEMORY}") from error
