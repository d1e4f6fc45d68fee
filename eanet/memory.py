"""Memory: what a model needs at least, and the one line where there is not enough."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from eanet.attention import queries_a_turn
from eanet.devices import LAST_CACHE, SECOND_CACHE
from eanet.errors import UserError
from eanet.host import physical_memory

# Of every parameter training holds its value, its gradient and at least one moment.
_COPIES = 3

_WAY_OUT = (
    "lower model.embed_dim, model.depth, model.num_heads, model.head_dim, model.memory_size, "
    "model.mlp_dim or microbatch_size"
)


def of_device(mesh: Mesh) -> int:
    """Bytes of a device's own memory, or its share of the machine's where it has none."""
    statistics = mesh.devices.flat[0].memory_stats() or {}
    return statistics.get("bytes_limit", physical_memory() // mesh.size)


def attention_bytes(model: Mapping[str, Any], image_shape: tuple[int, int, int]) -> int:
    """Of the attention weights of one image in one block that exist at once, in float32.

    Args:
      model: the arguments of `eanet.model.EANet`.
      image_shape: height, width and channels.
    """
    height, width, _ = image_shape
    tokens = (height // model["patch_size"]) * (width // model["patch_size"])
    heads, external = model["num_heads"], model["attention"] == "external"
    columns = model["memory_size"] if external else queries_a_turn(heads, tokens)
    return 4 * tokens * heads * columns


def images_in_cache(
    model: Mapping[str, Any], image_shape: tuple[int, int, int], *, training: bool
) -> int:
    """How many images' attention fits the caches of a core.

    Evaluation reads it again in the next operation, training again after all other blocks.
    """
    block = max(1, attention_bytes(model, image_shape))  # a patch size too large leaves no token
    return LAST_CACHE // (block * model["depth"]) if training else SECOND_CACHE // block


def least_bytes(
    model: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    num_images: int,
) -> int:
    """What training a model takes at the very least, from its largest parts alone.

    Args:
      model: the arguments of `eanet.model.EANet`.
      image_shape: height, width and channels.
      num_images: that are taken through the model at once.
    """
    projections = 2 if model["attention"] == "external" else 4
    inner = projections * model["num_heads"] * model["head_dim"] + 2 * model["mlp_dim"]
    parameters = model["depth"] * model["embed_dim"] * inner
    # The backward pass needs the attention of every block, or makes it anew in turns.
    activations = num_images * model["depth"] * attention_bytes(model, image_shape)
    return _COPIES * parameters * np.dtype(model["param_dtype"]).itemsize + activations


def check(needed: int, mesh: Mesh) -> None:
    """Refuses what cannot fit on a device of the mesh.

    Raises:
      UserError: `needed` bytes are more than there are.
    """
    available = of_device(mesh)
    if needed > available:
        raise UserError(
            f"this model needs at least {needed / 1e9:,.1f} GB of memory, but a device has "
            f"{available / 1e9:,.1f} GB; {_WAY_OUT}"
        )


@contextlib.contextmanager
def shortage_refused() -> Iterator[None]:
    """Around training or evaluation: says in one line that memory did not suffice."""
    try:
        yield
    except MemoryError as error:
        raise UserError(f"out of memory ({error}); {_WAY_OUT}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"{str(error).splitlines()[0]} {_WAY_OUT}") from error
