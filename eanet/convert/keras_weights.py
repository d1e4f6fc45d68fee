"""Which Keras variable is which parameter, and what the shapes of the variables tell.

The Keras example "Image classification with EANet" builds its model from stock layers, whose names
in a weight file are counters (`dense_13`). What identifies a variable is its place in the order of
the model, which `slots` spells out; its shape must then agree with all others.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from eanet.convert.keras_architecture import Architecture, our_model
from eanet.errors import UserError

# Variables before the first block, and in a block of either kind of attention.
_BEFORE_BLOCKS, _PER_BLOCK = 3, 16

# Channels that images may have, when only the size of a patch is known.
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Slot:
    """One variable of the Keras model.

    Attributes:
      keras: its name inside `layers/` of a Keras 3 weight file.
      path: where the parameter stands in our tree.
      dims: its shape in Keras, in names of sizes; in our tree the shape may split or join axes.
    """

    keras: str
    path: tuple[str | int, ...]
    dims: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path as one word."""
        return "/".join(map(str, self.path))


@dataclass(frozen=True)
class Tensor:
    """A variable as it stands in a file, under the file's own name for it."""

    name: str
    value: np.ndarray


@dataclass(frozen=True)
class KerasWeights:
    """What a file of Keras weights holds.

    Attributes:
      source: the file, for messages.
      tensors: all trainable variables in the order of the model.
      statistics: mean and deviation by which the file's layers normalise pixels from 0 to 255, each
        `float64[C]` or of one value for all channels; None where the file has no such layer.
      image_shape: height, width and channels where the file states them, or None.
    """

    source: str
    tensors: list[Tensor]
    statistics: tuple[np.ndarray, np.ndarray] | None = None
    image_shape: tuple[int, int, int] | None = None


def slots(depth: int, attention: str) -> Iterator[Slot]:
    """All trainable variables of the Keras model, in its order."""
    dense, norms = itertools.count(), itertools.count()

    def layer(keras: str, path: tuple, **variables: tuple[str, ...]) -> Iterator[Slot]:
        for index, (name, dims) in enumerate(variables.items()):
            yield Slot(f"{keras}/vars/{index}", (*path, name), dims)

    def linear(
        path: tuple, inputs: str, outputs: str, kernel: str = "kernel", bias: str = "bias"
    ) -> Iterator[Slot]:
        shapes = {kernel: (inputs, outputs), bias: (outputs,)}
        yield from layer(numbered("dense", next(dense)), path, **shapes)

    def norm(path: tuple) -> Iterator[Slot]:
        name = numbered("layer_normalization", next(norms))
        yield from layer(name, path, scale=("embed_dim",), bias=("embed_dim",))

    embed = ("patch_embed",)
    yield from layer(
        "patch_embedding/proj",
        (*embed, "projection"),
        kernel=("patch_size²·channels", "embed_dim"),
        bias=("embed_dim",),
    )
    yield from layer("patch_embedding/pos_embed", embed, position_embedding=("tokens", "embed_dim"))
    for index in range(depth):
        block = ("blocks", index)
        yield from norm((*block, "attention_norm"))
        path = (*block, "attention")
        if attention == "external":
            yield from linear(path, "embed_dim", "heads·head_dim", "query_kernel", "query_bias")
            yield from linear(path, "head_dim", "memory_size", "key_memory", "key_memory_bias")
            yield from linear(path, "memory_size", "head_dim", "value_memory", "value_memory_bias")
            yield from linear(path, "heads·head_dim", "embed_dim", "out_kernel", "out_bias")
        else:
            name, heads = numbered("multi_head_attention", index), ("num_heads", "head_dim")
            for part in ("query", "key", "value"):
                kernel = ("embed_dim", *heads)
                yield from layer(f"{name}/{part}_dense", (*path, part), kernel=kernel, bias=heads)
            kernel = (*heads, "embed_dim")
            yield from layer(
                f"{name}/output_dense", (*path, "out"), kernel=kernel, bias=("embed_dim",)
            )
        yield from norm((*block, "mlp_norm"))
        yield from linear((*block, "mlp", "hidden"), "embed_dim", "mlp_dim")
        yield from linear((*block, "mlp", "out"), "mlp_dim", "embed_dim")
    yield from linear(("head",), "embed_dim", "num_classes")


def numbered(name: str, index: int) -> str:
    """The name that Keras gives to layer `index` of a class."""
    return f"{name}_{index}" if index else name


def infer(
    weights: KerasWeights,
    *,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Architecture:
    """The sizes of the model that a file was saved from.

    Args:
      weights: as `eanet.convert.keras_files.read` returns them.
      image_size: height and width; needed where shapes leave them open.
      channels: of the images; likewise.

    Raises:
      UserError: a tensor does not fit the example's model, and the message names the first one;
        or the shapes do not tell the size of the images, and the message names the option.
    """
    attention, depth = _outline(weights.tensors)
    sizes = _match(weights, list(slots(depth, attention)))
    if attention == "external":
        sizes["num_heads"], rest = divmod(sizes["heads·head_dim"], sizes["head_dim"])
        if rest:
            raise UserError(
                f"{weights.source}: {weights.tensors[5].name} has {sizes['heads·head_dim']} "
                f"columns, which do not divide into heads of {sizes['head_dim']}, the rows of "
                f"{weights.tensors[7].name}"
            )
    patch_size, channels = _patch(weights, sizes["patch_size²·channels"], channels)
    height, width = _image_size(weights, sizes["tokens"], patch_size, image_size)
    return Architecture(
        image_shape=(height, width, channels),
        patch_size=patch_size,
        depth=depth,
        attention=attention,
        memory_size=sizes.get("memory_size", 0),
        **{
            name: sizes[name]
            for name in ("num_classes", "embed_dim", "num_heads", "head_dim", "mlp_dim")
        },
    )


def _outline(tensors: Sequence[Tensor]) -> tuple[str, int]:
    """Kind of attention and number of blocks; a block starts with a vector, the head does not."""
    attention = "self" if any(tensor.value.ndim == 3 for tensor in tensors) else "external"
    starts = tensors[_BEFORE_BLOCKS::_PER_BLOCK]
    return attention, sum(1 for _ in itertools.takewhile(lambda t: t.value.ndim == 1, starts))


def _match(weights: KerasWeights, expected: Sequence[Slot]) -> dict[str, int]:
    """The value of every name in the slots' dims, which all tensors must agree on."""
    sizes: dict[str, int] = {}
    source = weights.source
    for tensor, slot in zip(weights.tensors, expected, strict=False):
        shape = tensor.value.shape
        fits = len(shape) == len(slot.dims) and all(
            sizes.setdefault(name, size) == size
            for name, size in zip(slot.dims, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join(f"{n}={sizes[n]}" if n in sizes else n for n in slot.dims)
            raise UserError(
                f"{source}: {tensor.name} has the shape {list(shape)}, but {slot.name} of the "
                f"Keras example's model, whose place it has, needs [{wanted}]"
            )
    if len(weights.tensors) < len(expected):
        slot = expected[len(weights.tensors)]
        raise UserError(f"{source}: there is no tensor for {slot.name} ({slot.keras})")
    if len(weights.tensors) > len(expected):
        tensor = weights.tensors[len(expected)]
        raise UserError(
            f"{source}: {tensor.name}, of shape {list(tensor.value.shape)}, is no part of the "
            f"Keras example's model with {len(expected) // _PER_BLOCK} blocks"
        )
    return sizes


def _patch(weights: KerasWeights, values: int, channels: int | None) -> tuple[int, int]:
    """Side and channels of a patch of so many values."""
    name = weights.tensors[0].name
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
    weights: KerasWeights, tokens: int, patch_size: int, image_size: tuple[int, int] | None
) -> tuple[int, int]:
    """Height and width of images of so many tokens; square ones where nothing says otherwise."""
    name = weights.tensors[2].name
    if image_size is None and weights.image_shape is not None:
        image_size = weights.image_shape[:2]
    if image_size is not None:
        height, width = image_size
        if height % patch_size or width % patch_size:
            raise UserError(
                f"{weights.source}: images of {height}x{width} do not divide into patches of "
                f"{patch_size}x{patch_size}; correct --image_size or --channels"
            )
        if (height // patch_size) * (width // patch_size) != tokens:
            raise UserError(
                f"{weights.source}: {name} has {tokens} tokens, but images of {height}x{width} "
                f"have {(height // patch_size) * (width // patch_size)} patches of "
                f"{patch_size}x{patch_size}; correct --image_size or --channels"
            )
        return height, width
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(
            f"{weights.source}: {name} has {tokens} tokens, no square number, so the images are "
            "not square: say --image_size=HEIGHTxWIDTH"
        )
    return side * patch_size, side * patch_size


def to_params(weights: KerasWeights, architecture: Architecture) -> dict:
    """Our tree of parameters, float32, from a file that `infer` has found to fit."""
    params: dict = {}
    expected = slots(architecture.depth, architecture.attention)
    for tensor, slot in zip(weights.tensors, expected, strict=True):
        node = params
        for key in slot.path[:-1]:
            node = node.setdefault(key, {})
        node[slot.path[-1]] = tensor.value.astype(np.float32)
    blocks = params["blocks"].values()
    params["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    shapes = jax.eval_shape(our_model(architecture).init, 0)
    return jax.tree.map(lambda value, shape: value.reshape(shape.shape), params, shapes)


def to_keras(params: Mapping, architecture: Architecture) -> dict[str, np.ndarray]:
    """The inverse of `to_params`: Keras' names inside `layers/`, and float32 values."""
    sizes = dataclasses.asdict(architecture)
    sizes["heads·head_dim"] = architecture.num_heads * architecture.head_dim
    result = {}
    for slot in slots(architecture.depth, architecture.attention):
        value: Any = params
        for key in slot.path:
            value = _at(value, key)
        # Of the tokens and the values of a patch there is at most one in a shape.
        shape = [sizes.get(name, -1) for name in slot.dims]
        result[slot.keras] = np.asarray(value).astype(np.float32).reshape(shape)
    return result


def _at(tree: Any, key: str | int) -> Any:
    """What stands under a key; under a number, that block of a stack."""
    return jax.tree.map(lambda leaf: leaf[key], tree) if isinstance(key, int) else tree[key]
