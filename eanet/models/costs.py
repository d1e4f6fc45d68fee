"""What a model holds and computes, part by part, and the memory that its training needs."""

import math
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh

from eanet import platforms
from eanet.devices import LAST_CACHE, SECOND_CACHE
from eanet.models.base import Attention
from eanet.models.eanet import EANet

# Of every parameter training holds its value, its gradient and at least one moment.
_COPIES = 3
_BYTES = 4  # of a value in float32
# Arrays of the largest size of a block that exist at once, counted in compiled programs.
_AT_ONCE = 6


class Row(NamedTuple):
    """A part of a model: its name, the shape of its output for one image, what it costs."""

    part: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


def count_parameters(tree: Any) -> int:
    """Number of values in all arrays of a tree, or of a module."""
    if isinstance(tree, nnx.Module):
        tree = nnx.state(tree, nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def summarize(model: EANet) -> list[Row]:
    """The parts of a model in their order; MACs are the multiply-adds of its matrix products.

    As computed, so with the products of external attention folded where that is cheaper; forming
    the folded weights holds no batch axis and is not counted.
    """
    patch_embed, blocks, head, depth = model.patch_embed, model.blocks, model.head, model.depth
    tokens, embed_dim = patch_embed.position_embedding.shape
    shape = (tokens, embed_dim)
    attention_macs = depth * _attention(model).macs(tokens, embed_dim)
    mlp_macs = 2 * tokens * math.prod(blocks.mlp.hidden.kernel.shape)

    def row(part: str, macs: int, *modules: nnx.Module | None) -> Row:
        return Row(part, shape, sum(map(count_parameters, modules)), macs)

    attention = f"{model.attention} attention, {depth} ×"
    rows = [
        row("patch embedding", patch_embed.macs(), patch_embed),
        *(
            [row(f"local mixing, {depth} ×", blocks.local_mixing.macs(), blocks.local_mixing)]
            if blocks.local_mixing
            else []
        ),
        *(
            [
                row(
                    attention,
                    attention_macs,
                    *(blocks.attention, blocks.attention_norm, blocks.attention_scale),
                )
            ]
            if blocks.attention_norm
            else []
        ),
        row(f"MLP, {depth} ×", mlp_macs, blocks.mlp, blocks.mlp_norm, blocks.mlp_scale),
    ]
    if model.final_norm is not None:
        rows.append(row("final norm", 0, model.final_norm))
    if pooling := count_parameters(model.pooling):
        rows.append(Row("pooling", (embed_dim,), pooling, 0))
    classes, head_macs = head.kernel.shape[1], math.prod(head.kernel.shape)
    return [*rows, Row("head", (classes,), count_parameters(head), head_macs)]


def totals(rows: list[Row]) -> tuple[int, int]:
    """Parameters and MACs of all rows together."""
    return sum(row.parameters for row in rows), sum(row.macs for row in rows)


def images_at_once(model: EANet, mesh: Mesh, *, training: bool, held: int = 0) -> int:
    """How many images a device best takes through the model at once, see `eanet.platforms`.

    `held` are bytes that a device holds besides the parameters and what belongs to them.
    """
    copies = _COPIES + 1 if training else 1
    return platforms.images_at_once(
        mesh.local_devices[0],  # of others JAX tells no memory
        in_cache=images_in_cache(model, training=training),
        image_bytes=image_bytes(model, training=training),
        held=held + copies * _BYTES * count_parameters(model),
    )


def images_in_cache(model: EANet, *, training: bool) -> int:
    """How many images' attention fits the caches of a core.

    Either array is read again in the next operation, and in training what is saved is read after
    all other blocks.
    """
    at_once, saved = _attention_bytes(model)
    images = SECOND_CACHE // max(1, at_once, saved)
    return min(images, LAST_CACHE // max(1, saved * model.depth)) if training else images


def image_bytes(model: EANet, *, training: bool) -> int:
    """About the bytes that an image takes in the model: arrays at once, and what blocks save.

    Each block saves its input, two normalised inputs, two hidden layers and what its attention
    saves. `tests/models/test_costs.py` holds it against what compiled programs take.
    """
    tokens, embed_dim = model.patch_embed.position_embedding.shape
    hidden = _BYTES * tokens * model.blocks.mlp.hidden.kernel.shape[-1]
    x = _BYTES * tokens * embed_dim
    at_once, saved = _attention_bytes(model)
    largest = max(at_once, saved, hidden, x, _BYTES * math.prod(model.patch_embed.image_shape))
    return _AT_ONCE * largest + training * model.depth * (saved + 3 * x + 2 * hidden)


def batch_bytes(images: int, image_shape: tuple[int, ...]) -> int:
    """About the bytes that a device holds of its share of a batch, in float32, and augmented."""
    return 3 * _BYTES * images * math.prod(image_shape)


def least_bytes(model: EANet, num_images: int) -> int:
    """Bytes that training takes at least, with so many images in the model at once."""
    at_once, saved = _attention_bytes(model)
    params = jax.tree.leaves(nnx.state(model.blocks, nnx.Param))
    parameters = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in params)
    return _COPIES * parameters + num_images * max(at_once, model.depth * saved)


def _attention_bytes(model: EANet) -> tuple[int, int]:
    """Of attention for one image in one block: what exists at once, and what is saved."""
    at_once, saved = _attention(model).memory(*model.patch_embed.position_embedding.shape)
    return _BYTES * at_once, _BYTES * saved


def _attention(model: EANet) -> Attention:
    """The attention of one block, with shapes in place of values."""
    graphdef, params = nnx.split(model.blocks.attention)

    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(one, params))
