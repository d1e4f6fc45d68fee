"""Parameters and multiply-adds of a model, part by part."""

import math
from typing import Any

import jax
from flax import nnx

from eanet.models.attention_fast import ExternalAttention
from eanet.models.eanet import EANet

Row = tuple[str, tuple[int, ...], int, int]


def count_parameters(tree: Any) -> int:
    """Number of values in all arrays of a tree, or of a module."""
    if isinstance(tree, nnx.Module):
        tree = nnx.state(tree, nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def attention_multiply_adds(attention: Any, tokens: int) -> int:
    """Multiply-adds of the matrix products of one attention layer for one image.

    As computed, so with the products of external attention folded where that is cheaper; forming
    the folded kernels holds no batch axis and is not counted. Of a stack of layers it is one.
    """
    if not isinstance(attention, ExternalAttention):
        embed_dim, width = attention.query.kernel.shape[-2:]
        return 4 * tokens * embed_dim * width + 2 * tokens * tokens * width
    embed_dim, heads, head_dim = attention.query_kernel.shape[-3:]
    units = attention.key_memory.shape[-1]
    if attention.folded:
        return 2 * tokens * heads * embed_dim * units
    return 2 * tokens * heads * head_dim * (embed_dim + units)


def summarize(model: EANet) -> list[Row]:
    """For each part its name, the shape of its output for one image, parameters, multiply-adds."""
    patch_embed, block, head = model.patch_embed, model.blocks, model.head
    tokens, depth = patch_embed.num_tokens, model.depth
    width = patch_embed.position_embedding.shape[1]
    mlp = block.mlp
    attention = "external" if isinstance(block.attention, ExternalAttention) else "self"
    rows: list[Row] = [
        (
            "patch embedding",
            (tokens, width),
            count_parameters(patch_embed),
            tokens * math.prod(patch_embed.projection.kernel.shape),
        ),
        (
            f"{attention} attention, {depth} ×",
            (tokens, width),
            count_parameters(block.attention) + count_parameters(block.attention_norm),
            depth * attention_multiply_adds(block.attention, tokens),
        ),
        (
            f"MLP, {depth} ×",
            (tokens, width),
            count_parameters(mlp) + count_parameters(block.mlp_norm),
            2 * tokens * math.prod(mlp.hidden.kernel.shape),
        ),
    ]
    if model.final_norm is not None:
        rows.append(("final norm", (tokens, width), count_parameters(model.final_norm), 0))
    outputs = head.kernel.shape[1]
    rows.append(("head", (outputs,), count_parameters(head), math.prod(head.kernel.shape)))
    return rows


def totals(rows: list[Row]) -> tuple[int, int]:
    """Parameters and multiply-adds of all rows together."""
    return sum(row[2] for row in rows), sum(row[3] for row in rows)
