"""Data parallelism over all devices: the batch is split, everything else replicated.

They are those of this process or, where several have joined (`eanet.cluster`), of all of them.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    """A mesh of as many devices as divide the batch evenly, equally many of each process.

    Raises `UserError` as `local_devices`, and where the processes do not divide the batch.
    """
    local_devices()
    by_process = collections.defaultdict(list)
    for device in jax.devices():
        by_process[device.process_index].append(device)
    processes, least = len(by_process), min(map(len, by_process.values()))
    counts = [n for n in range(1, least + 1) if batch_size % (n * processes) == 0]
    if not counts:
        raise UserError(
            f"batch_size={batch_size} cannot be divided among {processes} processes; choose a "
            f"multiple of {processes}, or fewer processes"
        )
    devices = [each for index in sorted(by_process) for each in by_process[index][: counts[-1]]]
    # In this order, of which `own_part` counts on: `jax.make_mesh` has one by a pod's topology, in
    # which those of one process are not neighbours.
    return Mesh(np.array(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of an array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Every device holds an equal part of the first axis."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of arrays to every device of the mesh; all processes have the same ones."""
    return put(tree, replicated(mesh))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays of the host on the devices, on those of this process only what is theirs."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree)


def own_part(mesh: Mesh, batch_size: int) -> slice:
    """Which examples of a batch are for the devices of this process."""
    here = [i for i, each in enumerate(mesh.devices.flat) if each in set(mesh.local_devices)]
    share = batch_size // mesh.size
    return slice(here[0] * share, (here[-1] + 1) * share)


def put_part(part: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]) -> jax.Array:
    """An array of this shape, of which each process gives the part for its own devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(part, sharding)
    return jax.make_array_from_process_local_data(sharding, part, shape)


def broadcast(tree: Any, mesh: Mesh) -> Any:
    """The arrays of process 0 in every process, to the last bit, as arrays of NumPy.

    The others give some of the same shapes and types.
    """
    leaves, form = jax.tree.flatten(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    # As bytes: the others add zeros, and −0.0 + 0.0 is 0.0.
    data = np.concatenate(
        [np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in arrays]
    )
    nothing = np.zeros_like(data)

    def row(index: Any) -> np.ndarray:
        return (nothing if index[0].start else data)[None]

    shape = mesh.size, len(data)
    rows = jax.make_array_from_callback(shape, split_batch(mesh), row)
    received = np.asarray(_sum_of_rows(mesh)(rows))
    parts = np.split(received, np.cumsum([each.nbytes for each in arrays])[:-1])
    values = [
        part.view(each.dtype).reshape(each.shape) for part, each in zip(parts, arrays, strict=True)
    ]
    return jax.tree.unflatten(form, values)


def connect(mesh: Mesh, meet: Callable[[], object]) -> None:
    """Lets the devices of all processes meet for the first time, right after the processes `meet`.

    On a CPU that fails where it takes one of them 30 seconds longer; later they may take any time.
    """
    rows = put(np.zeros((mesh.size, 1), np.uint8), split_batch(mesh))
    compiled = _sum_of_rows(mesh).lower(rows).compile()
    meet()
    compiled(rows).block_until_ready()


def _sum_of_rows(mesh: Mesh) -> Any:
    return jax.jit(
        lambda rows: jnp.sum(rows, axis=0, dtype=rows.dtype), out_shardings=replicated(mesh)
    )


def gather(array: jax.Array) -> np.ndarray:
    """All of an array, wherever its parts are; each process calls it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


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
        on_device = mesh.local_devices[0].memory_stats()
        part = f" by {setting}" if (setting := memory_setting()) and on_device else ""
        ways = [_LESS_MEMORY]
        if data:
            ways += ["take fewer or smaller images", "do without dataset.streaming=False"]
        if part:
            ways += ["start fewer processes on it"]
        raise UserError(
            f"this model needs at least {model / 1e9:,.1f} GB of memory and the training data "
            f"{data / 1e9:,.1f} GB, but a device has {max(0, available) / 1e9:,.1f} GB{part}; "
            f"{', or '.join(ways)}"
        )


def _available(data: int, mesh: Mesh) -> int:
    here = mesh.local_devices
    statistics = here[0].memory_stats() or {}
    return statistics.get("bytes_limit", (physical_memory() - data) // len(here))


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
