"""Multi-head self-attention, the baseline that external attention is compared with."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet import platforms
from eanet.models.base import Attention
from eanet.models.dropout import dropout, rngs_for, rngs_for_chunk
from eanet.models.layers import Linear
from eanet.models.ops import residual, softmax

# Fewer queries at once than these read the keys too often.
_LEAST_QUERIES = 16


class SelfAttention(Attention):
    """Multi-head softmax self-attention, the baseline; `head_dim` is independent of `embed_dim`.

    Args:
      embed_dim: d, the width of the tokens.
      num_heads: H.
      head_dim: h, Keras' `key_dim`.
      dropout_rate: of the attention weights and of the output.
      dtype: of the products; the softmax is always float32.
      param_dtype: of the parameters.
      rngs: source of the initial parameters.
    """

    about = """\
Its blocks mix tokens by standard multi-head self-attention, the baseline that external attention
([Guo et al., 2021](https://arxiv.org/abs/2105.02358)) is compared with. With queries, keys and
values `Q`, `K`, `V` of the tokens and heads of width `h`,

    output = softmax(Q · Kᵀ / √h) · V"""
    columns = True

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        head_dim: int,
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        width = num_heads * head_dim
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.query = Linear(embed_dim, width, **options)
        self.key = Linear(embed_dim, width, **options)
        self.value = Linear(embed_dim, width, **options)
        self.out = Linear(width, embed_dim, **options)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate

    def macs(self, tokens: int, embed_dim: int) -> int:
        """Without those of a last chunk that is not full."""
        width = self.query.kernel.shape[-1]
        return 4 * tokens * embed_dim * width + 2 * tokens * tokens * width

    def memory(self, tokens: int, embed_dim: int) -> tuple[int, int]:
        """The attention of a chunk; saved are queries, keys, values and what is read."""
        width = self.query.kernel.shape[-1]
        chunk = self.num_heads * tokens * queries_per_chunk(self.num_heads, tokens)
        return chunk, 4 * tokens * width

    def _heads(self, x: Float[Array, "width b n"]) -> Float[Array, "bh h n"]:
        """Heads of all examples on one axis: XLA:CPU multiplies slowly beside an axis of one."""
        x = x.reshape(self.num_heads, -1, *x.shape[1:]).transpose(2, 0, 1, 3)
        return x.reshape(-1, *x.shape[2:])

    def weights(self, x: Float[Array, "d b n"]) -> Float[Array, "b heads n n"]:
        """softmax(Q Kᵀ / sqrt(h)), in float32."""
        query, key = self._heads(self.query(x)), self._heads(self.key(x))
        weights = _softmax_weights(query, key, save=True)
        return weights.reshape(-1, self.num_heads, *weights.shape[1:])

    def __call__(
        self, x: Float[Array, "d b n"], *, rngs: Key[Array, "b 2"] | None = None
    ) -> Float[Array, "d b n"]:
        """Attends; `rngs`, two keys for each example, switch dropout on.

        Many tokens ask in chunks of queries, whose weights are computed again for the gradients:
        memory stays linear in the number of tokens, though work does not.
        """
        query, key, value = (
            residual(self._heads(layer(x))) for layer in (self.query, self.key, self.value)
        )
        batch, tokens = x.shape[1:]
        size = queries_per_chunk(self.num_heads, tokens)
        chunks = -(-tokens // size)

        def attend(chunk: tuple[Array, Array]) -> Array:
            asking, index = chunk
            chunk_rngs = rngs_for_chunk(rngs_for(rngs, 0), index)
            weights = _softmax_weights(asking, key, save=chunks == 1)
            by_example = weights.reshape(batch, self.num_heads, size, tokens)
            by_example = dropout(by_example, self.dropout_rate, chunk_rngs, batch_axis=0)
            weights = by_example.reshape(weights.shape).astype(value.dtype)
            return jnp.einsum("bht,bqt->bhq", value, weights)

        if chunks == 1:
            mixed = attend((query, jnp.int32(0)))
        else:
            padded = jnp.pad(query, ((0, 0), (0, 0), (0, chunks * size - tokens)))
            asking = padded.reshape(*query.shape[:2], chunks, size).transpose(2, 0, 1, 3)
            mixed = jax.lax.map(jax.checkpoint(attend), (asking, jnp.arange(chunks)))
            mixed = mixed.transpose(1, 2, 0, 3).reshape(padded.shape)[..., :tokens]
        mixed = mixed.reshape(batch, -1, tokens).swapaxes(0, 1)
        return dropout(self.out(residual(mixed)), self.dropout_rate, rngs_for(rngs, 1))


def queries_per_chunk(num_heads: int, tokens: int) -> int:
    """How many tokens of an example ask at once; chunks are about equally long."""
    most = max(_LEAST_QUERIES, platforms.attention_weights_at_once() // max(1, num_heads * tokens))
    chunks = max(1, -(-tokens // most))
    return -(-tokens // chunks)


def _softmax_weights(
    query: Float[Array, "bh h q"], key: Float[Array, "bh h t"], *, save: bool
) -> Float[Array, "bh q t"]:
    query = query / math.sqrt(query.shape[1])
    logits = jnp.einsum("bhq,bht->bqt", query, key, preferred_element_type=jnp.float32)
    return softmax(logits, -1, save)
