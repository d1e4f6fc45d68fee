"""A function of images, compiled once and called with any number of them in bounded memory."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from eanet import devices

# On devices with memory of their own a chunk has this many images, if its outputs are no larger.
_MOST_IMAGES, _MOST_BYTES = 128, 2**28


def in_chunks(
    function: Callable[[Any, Any], Any],
    params: Any,
    mesh: Mesh,
    *,
    image_shape: tuple[int, int, int],
    images_at_once: int,
) -> Callable[[np.ndarray], Any]:
    """Builds `call(images)` -> what `function(params, images)` gives, as arrays of NumPy.

    The function maps parameters and `[b, H, W, C]` to a tree of arrays `[b, ...]`. The images are
    split over the devices of the mesh and, in time, into chunks of one size; the last one is
    padded. `images_at_once` is of one device.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    outputs = jax.eval_shape(function, params, image)
    bytes_each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(outputs))
    share = devices.microbatch(mesh, _MOST_IMAGES * mesh.size, 0, images_at_once)
    chunk = min(share, max(1, _MOST_BYTES // bytes_each)) * mesh.size

    sharding = devices.split_batch(mesh)
    split = partial(jax.shard_map, mesh=mesh, out_specs=sharding.spec, check_vma=False)
    compiled = jax.jit(split(function, in_specs=(PartitionSpec(), sharding.spec)))
    params = devices.replicate(params, mesh)

    def call(images: np.ndarray) -> Any:
        results = jax.tree.map(
            lambda leaf: np.empty((len(images), *leaf.shape[1:]), leaf.dtype), outputs
        )

        def collect(start: int, values: Any) -> None:
            for result, value in zip(*map(jax.tree.leaves, (results, values)), strict=True):
                result[start : start + chunk] = np.asarray(value)[: len(images) - start]

        running: deque[tuple[int, Any]] = deque()
        for start in range(0, len(images), chunk):
            some = images[start : start + chunk]
            some = np.pad(some, [(0, chunk - len(some)), (0, 0), (0, 0), (0, 0)])
            running.append((start, compiled(params, jax.device_put(some, sharding))))
            if len(running) > 1:
                collect(*running.popleft())
        for start, values in running:
            collect(start, values)
        return results

    return call
