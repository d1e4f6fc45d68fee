"""Multi-head self-attention, the baseline that external attention is compared with."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet.models.layers import Linear, dropout, kept, keys_for, keys_for_turn, softmax

# Of one example at once: 512 kB, so that a turn stays in the cache of a core.
# Fewer queries than these read the keys too often.
_MOST_WEIGHTS, _LEAST_QUERIES = 2**17, 16


class SelfAttention(nnx.Module):
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

    def _heads(self, x: Float[Array, "width b n"]) -> Float[Array, "bh h n"]:
        """Heads of all examples on one axis: XLA:CPU multiplies slowly beside an axis of one."""
        x = x.reshape(self.num_heads, -1, *x.shape[1:]).transpose(2, 0, 1, 3)
        return x.reshape(-1, *x.shape[2:])

    def weights(self, x: Float[Array, "d b n"]) -> Float[Array, "b heads n n"]:
        """softmax(Q Kᵀ / sqrt(h)), in float32."""
        query, key = self._heads(self.query(x)), self._heads(self.key(x))
        weights = _softmax_weights(query, key, keep=True)
        return weights.reshape(-1, self.num_heads, *weights.shape[1:])

    def kernels(self) -> None:
        """Nothing is computed from the parameters alone."""

    def __call__(
        self,
        x: Float[Array, "d b n"],
        *,
        keys: Key[Array, "b 2"] | None = None,
        kernels: None = None,
    ) -> Float[Array, "d b n"]:
        """Attends; `keys`, two for each example, switch dropout on.

        Many tokens ask in turns, and the weights of a turn are computed again for its gradients:
        memory stays linear in the number of tokens, though work does not.
        """
        query, key, value = (
            kept(self._heads(layer(x))) for layer in (self.query, self.key, self.value)
        )
        batch, tokens = x.shape[1:]
        size = queries_a_turn(self.num_heads, tokens)
        turns = -(-tokens // size)

        def attend(turn: tuple[Array, Array]) -> Array:
            asking, index = turn
            dropout_keys = keys_for_turn(keys_for(keys, 0), index)
            weights = _softmax_weights(asking, key, keep=turns == 1)
            by_example = weights.reshape(batch, self.num_heads, size, tokens)
            by_example = dropout(by_example, self.dropout_rate, dropout_keys, batch_axis=0)
            weights = by_example.reshape(weights.shape).astype(value.dtype)
            return jnp.einsum("bht,bqt->bhq", value, weights)

        if turns == 1:
            mixed = attend((query, jnp.int32(0)))
        else:
            padded = jnp.pad(query, ((0, 0), (0, 0), (0, turns * size - tokens)))
            asking = padded.reshape(*query.shape[:2], turns, size).transpose(2, 0, 1, 3)
            mixed = jax.lax.map(jax.checkpoint(attend), (asking, jnp.arange(turns)))
            mixed = mixed.transpose(1, 2, 0, 3).reshape(padded.shape)[..., :tokens]
        mixed = mixed.reshape(batch, -1, tokens).swapaxes(0, 1)
        return dropout(self.out(kept(mixed)), self.dropout_rate, keys_for(keys, 1))


def queries_a_turn(num_heads: int, tokens: int) -> int:
    """How many tokens of an example ask at once in self-attention; turns are about equally long."""
    most = max(_LEAST_QUERIES, _MOST_WEIGHTS // max(1, num_heads * tokens))
    turns = max(1, -(-tokens // most))
    return -(-tokens // turns)


def _softmax_weights(
    query: Float[Array, "bh h q"], key: Float[Array, "bh h t"], *, keep: bool
) -> Float[Array, "bh q t"]:
    query = query / math.sqrt(query.shape[1])
    logits = jnp.einsum("bhq,bht->bqt", query, key, preferred_element_type=jnp.float32)
    return softmax(logits, -1, keep)
