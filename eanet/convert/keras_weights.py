"""Which Keras variable is which parameter, and what the shapes of the variables tell.

The Keras example "Image classification with EANet" builds its model from stock layers, whose names
in a weight file are counters (`dense_13`). What identifies a variable is its place in the order of
the model, which `slots` spells out; its shape must then agree with all others.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from eanet.convert.keras_architecture import Architecture, our_model
from eanet.errors import UserError

# Variables before the first block, and in a block of either kind of attention.
_BEFORE_BLOCKS, _PER_BLOCK = 3, 16

# Channels that images may have, when only the size of a patch is known.
_CHANNELS = (1, 3, 4)

Size = tuple[int, int]  # height and width


class Slot(NamedTuple):
    """One variable of the Keras model."""

    keras: str  # its name inside `layers/` of a Keras 3 weight file
    name: str  # that of the parameter in our tree, such as "blocks/0/mlp/out/bias"
    dims: tuple[str, ...]  # its shape in names of sizes; our tree may split or join axes


@dataclass(frozen=True)
class KerasWeights:
    """What a file of Keras weights holds."""

    source: str  # the file, for messages
    tensors: dict[str, np.ndarray]  # all trainable variables, by name, in the order of the model
    # Mean and deviation by which layers normalise pixels from 0 to 255, if any do: each
    # `float64[C]`, or of one value for all channels.
    statistics: tuple[np.ndarray, np.ndarray] | None = None
    image_shape: tuple[int, int, int] | None = None  # height, width, channels, where it states them


def slots(depth: int, attention: str) -> list[Slot]:
    """All trainable variables of the Keras model, in its order."""
    found: list[Slot] = []
    counts: Counter[str] = Counter()

    def layer(keras: str, place: str, **variables: str) -> None:
        for index, (name, dims) in enumerate(variables.items()):
            found.append(Slot(f"{keras}/vars/{index}", f"{place}/{name}", tuple(dims.split())))

    def numbered(name: str) -> str:
        """The name that Keras gives to the next layer of a class."""
        counts[name] += 1
        return name if counts[name] == 1 else f"{name}_{counts[name] - 1}"

    def linear(
        place: str, inputs: str, outputs: str, kernel: str = "kernel", bias: str = "bias"
    ) -> None:
        layer(numbered("dense"), place, **{kernel: f"{inputs} {outputs}", bias: outputs})

    def norm(place: str) -> None:
        layer(numbered("layer_normalization"), place, scale="embed_dim", bias="embed_dim")

    patch = {"kernel": "patch_size²·channels embed_dim", "bias": "embed_dim"}
    layer("patch_embedding/proj", "patch_embed/projection", **patch)
    layer("patch_embedding/pos_embed", "patch_embed", position_embedding="tokens embed_dim")
    for index in range(depth):
        block = f"blocks/{index}"
        norm(f"{block}/attention_norm")
        place = f"{block}/attention"
        if attention == "external":
            linear(place, "embed_dim", "heads·head_dim", "query_kernel", "query_bias")
            linear(place, "head_dim", "memory_size", "key_memory", "key_memory_bias")
            linear(place, "memory_size", "head_dim", "value_memory", "value_memory_bias")
            linear(place, "heads·head_dim", "embed_dim", "out_kernel", "out_bias")
        else:
            name, heads = numbered("multi_head_attention"), "num_heads head_dim"
            for part in ("query", "key", "value"):
                kernel = f"embed_dim {heads}"
                layer(f"{name}/{part}_dense", f"{place}/{part}", kernel=kernel, bias=heads)
            kernel = f"{heads} embed_dim"
            layer(f"{name}/output_dense", f"{place}/out", kernel=kernel, bias="embed_dim")
        norm(f"{block}/mlp_norm")
        linear(f"{block}/mlp/hidden", "embed_dim", "mlp_dim")
        linear(f"{block}/mlp/out", "mlp_dim", "embed_dim")
    linear("head", "embed_dim", "num_classes")
    return found


def infer(
    weights: KerasWeights, *, image_size: Size | None = None, channels: int | None = None
) -> Architecture:
    """The sizes of the model of a file; those of its images are needed where shapes do not tell.

    Raises:
      UserError: a tensor does not fit the example's model, and the message names the first one;
        or the shapes do not tell the size of the images, and the message names the option.
    """
    names, values = list(weights.tensors), list(weights.tensors.values())
    attention = "self" if any(value.ndim == 3 for value in values) else "external"
    # A block starts with a vector, the head does not.
    starts = (value.ndim == 1 for value in values[_BEFORE_BLOCKS::_PER_BLOCK])
    depth = len(list(itertools.takewhile(bool, starts)))
    sizes: dict[str, Any] = _match(weights, slots(depth, attention))
    if attention == "external":
        sizes["num_heads"], rest = divmod(sizes["heads·head_dim"], sizes["head_dim"])
        if rest:
            raise UserError(
                f"{weights.source}: {names[5]} has {sizes['heads·head_dim']} columns, which do "
                f"not divide into heads of {sizes['head_dim']}, the rows of {names[7]}"
            )
    patch_size, channels = _patch(weights, sizes["patch_size²·channels"], channels)
    height, width = _image_size(weights, sizes["tokens"], patch_size, image_size)
    sizes = {"memory_size": 0, **sizes, "depth": depth, "patch_size": patch_size}
    sizes |= {"attention": attention, "image_shape": (height, width, channels)}
    return Architecture(**{f.name: sizes[f.name] for f in dataclasses.fields(Architecture)})


def _match(weights: KerasWeights, expected: Sequence[Slot]) -> dict[str, int]:
    """The value of every name in the slots' dims, which all tensors must agree on."""
    sizes: dict[str, int] = {}
    source = weights.source
    for index, (name, value) in enumerate(weights.tensors.items()):
        shape = list(value.shape)
        if index >= len(expected):
            raise UserError(
                f"{source}: {name}, of shape {shape}, is no part of the Keras example's model with "
                f"{len(expected) // _PER_BLOCK} blocks"
            )
        slot = expected[index]
        if len(shape) != len(slot.dims) or any(
            sizes.setdefault(dim, size) != size for dim, size in zip(slot.dims, shape, strict=True)
        ):
            wanted = ", ".join(f"{n}={sizes[n]}" if n in sizes else n for n in slot.dims)
            raise UserError(
                f"{source}: {name} has the shape {shape}, but {slot.name} of the "
                f"Keras example's model, whose place it has, needs [{wanted}]"
            )
    if len(weights.tensors) < len(expected):
        slot = expected[len(weights.tensors)]
        raise UserError(f"{source}: there is no tensor for {slot.name} ({slot.keras})")
    return sizes


def _patch(weights: KerasWeights, values: int, channels: int | None) -> tuple[int, int]:
    """Side and channels of a patch of so many values."""
    name = next(iter(weights.tensors))
    if channels is None and weights.image_shape is not None:
        channels = weights.image_shape[2]
    if channels is None and weights.statistics is not None:
        channels = len(weights.statistics[0])
    given = _CHANNELS if channels is None else (channels,)
    sides = [(math.isqrt(values // count), count) for count in given]
    found = [(side, count) for side, count in sides if side * side * count == values]
    if len(found) == 1:
        return found[0]
    if found:
        choices = " or ".join(f"{c} ({p}x{p} pixels)" for p, c in found)
        raise UserError(
            f"{weights.source}: {name} has {values} rows, which leaves open how many channels the "
            f"images have: say --channels={choices}"
        )
    raise UserError(
        f"{weights.source}: {name} has {values} rows, which are no square patch of "
        f"{' or '.join(map(str, given))} channels; say --channels=N for images of another kind"
    )


def _image_size(
    weights: KerasWeights, tokens: int, patch_size: int, image_size: Size | None
) -> Size:
    """Height and width of images of so many tokens; square ones where nothing says otherwise."""
    name = list(weights.tensors)[2]
    if image_size is None and weights.image_shape is not None:
        image_size = weights.image_shape[:2]
    if image_size is None:
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise UserError(
                f"{weights.source}: {name} has {tokens} tokens, no square number, so the images "
                "are not square: say --image_size=HEIGHTxWIDTH"
            )
        return side * patch_size, side * patch_size
    height, width = image_size
    patches = (height // patch_size) * (width // patch_size)
    if height % patch_size or width % patch_size:
        found = f"images of {height}x{width} do not divide into"
    elif patches != tokens:
        found = f"{name} has {tokens} tokens, but images of {height}x{width} have {patches}"
    else:
        return height, width
    raise UserError(
        f"{weights.source}: {found} patches of {patch_size}x{patch_size}; "
        "correct --image_size or --channels"
    )


def to_params(weights: KerasWeights, architecture: Architecture) -> dict:
    """Our tree of parameters, float32, from a file that `infer` has found to fit."""
    expected = slots(architecture.depth, architecture.attention)
    named = zip(expected, weights.tensors.values(), strict=True)
    params = unflatten_dict({slot.name: value.astype(np.float32) for slot, value in named}, sep="/")
    params["blocks"] = jax.tree.map(lambda *x: np.stack(x), *params["blocks"].values())
    shapes = jax.eval_shape(our_model(architecture).init, 0)
    return jax.tree.map(lambda value, shape: value.reshape(shape.shape), params, shapes)


def to_keras(params: Mapping, architecture: Architecture) -> dict[str, np.ndarray]:
    """The inverse of `to_params`: Keras' names inside `layers/`, and float32 values."""
    sizes = dataclasses.asdict(architecture)
    sizes["heads·head_dim"] = architecture.num_heads * architecture.head_dim
    blocks = {
        str(index): jax.tree.map(itemgetter(index), params["blocks"])
        for index in range(architecture.depth)
    }
    values = flatten_dict({**params, "blocks": blocks}, sep="/")
    return {
        # Of the tokens and the values of a patch there is at most one in a shape.
        slot.keras: np.asarray(values[slot.name], np.float32).reshape(
            [sizes.get(name, -1) for name in slot.dims]
        )
        for slot in slots(architecture.depth, architecture.attention)
    }
