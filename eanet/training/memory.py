"""Memory: what a model needs at least, and the one line where there is not enough."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from eanet.devices import LAST_CACHE, SECOND_CACHE
from eanet.errors import UserError
from eanet.host import physical_memory
from eanet.models.attention_fast import is_folded
from eanet.models.self_attention import queries_a_turn

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


def attention_bytes(model: Mapping[str, Any], image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Of attention for one image in one block, in float32.

    Args:
      model: the arguments of `eanet.models.eanet.EANet`.
      image_shape: height, width and channels.

    Returns:
      The weights that exist at once, and what is stored for the gradients.
    """
    height, width, _ = image_shape
    tokens = (height // model["patch_size"]) * (width // model["patch_size"])
    heads, head_dim, units = model["num_heads"], model["head_dim"], model["memory_size"]
    if model["attention"] == "self":
        # Queries, keys, values and what is read.
        weights, stored = heads * queries_a_turn(heads, tokens), 4 * heads * head_dim
    elif is_folded(model["embed_dim"], head_dim, units):
        weights = stored = heads * units
    else:
        # Queries and what is read; heads take turns.
        weights, stored = units, 2 * heads * head_dim
    return 4 * tokens * weights, 4 * tokens * stored


def images_in_cache(
    model: Mapping[str, Any], image_shape: tuple[int, int, int], *, training: bool
) -> int:
    """How many images' attention fits the caches of a core.

    Either array is read again in the next operation, and in training what is stored is read after
    all other blocks.
    """
    weights, stored = attention_bytes(model, image_shape)
    images = SECOND_CACHE // max(1, weights, stored)  # a patch size too large leaves no token
    return min(images, LAST_CACHE // max(1, stored * model["depth"])) if training else images


def least_bytes(
    model: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    num_images: int,
) -> int:
    """What training a model takes at the very least, from its largest parts alone.

    Args:
      model: the arguments of `eanet.models.eanet.EANet`.
      image_shape: height, width and channels.
      num_images: that are taken through the model at once.
    """
    projections = 2 if model["attention"] == "external" else 4
    inner = projections * model["num_heads"] * model["head_dim"] + 2 * model["mlp_dim"]
    parameters = model["depth"] * model["embed_dim"] * inner
    weights, stored = attention_bytes(model, image_shape)
    activations = num_images * max(weights, model["depth"] * stored)
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
