"""Data parallelism over all local devices: the batch is split, everything else replicated."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXIS = "batch"

# Bytes of a server's caches that a core may count on: of its own second one, of the last one.
SECOND_CACHE, LAST_CACHE = 2**20, 2**23


def make_mesh(batch_size: int) -> Mesh:
    """A mesh of as many local devices as divide the batch evenly."""
    devices = jax.local_devices()
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


def images_per_pass(mesh: Mesh, batch_size: int, microbatch_size: int, images_in_cache: int) -> int:
    """How many images a device takes through the model at once.

    A CPU is fastest where what is read again soon stays in a cache: there the default is as many
    images as fit into it, from 2 to 8. Elsewhere a device takes its whole share of the batch.

    Args:
      mesh: the devices.
      batch_size: of all devices together; a multiple of their number.
      microbatch_size: of all devices together; 0 takes the default.
      images_in_cache: of one device.
    """
    share = batch_size // mesh.size
    if microbatch_size:
        wanted = max(1, microbatch_size // mesh.size)
    elif mesh.devices.flat[0].platform == "cpu":
        wanted = min(max(images_in_cache, 2), 8)
    else:
        wanted = share
    return max(n for n in range(1, min(wanted, share) + 1) if share % n == 0)
