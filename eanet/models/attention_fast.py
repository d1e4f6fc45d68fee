"""The function of `eanet.models.attention`, computed fast.

Tokens are columns, `[d, B, N]`, and products are `kernel.T @ x`. No nonlinearity stands between
`W_in` and `M_k`, nor between `M_v` and `W_out`: their products hold no batch axis and are formed
once a microbatch wherever that costs fewer multiply-adds. Same function, same gradients, and the
intermediates of width H·h are never written. Where it costs more, which is where S is large, there
is a loop over heads, chunked so that the weights of one head exist at a time; they are computed
again for the gradients.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from eanet.models.attention import EPSILON, NORMS, ExternalAttention
from eanet.models.dropout import dropout, rngs_for, rngs_for_chunk
from eanet.models.ops import double_normalization, project, residual, softmax

# First and last folded weights, and the last bias.
Folded = tuple[Array, Array, Array]

# The norms that begin with a softmax over the tokens, which cancels what is constant per unit.
_CANCELS_CONSTANTS = ("double", "softmax_tokens")


def normalize(logits: Float[Array, "s h b n"], norm: str, *, save: bool) -> Float[Array, "s h b n"]:
    """Attention from logits, by one of `eanet.models.attention.NORMS`.

    It is saved for the gradients where `save`; in a loop that would be of all chunks together.
    """
    if norm == "double":
        return double_normalization(logits, EPSILON, save)
    if norm in ("softmax_tokens", "softmax_memory"):
        return softmax(logits, 3 if norm == "softmax_tokens" else 0, save)
    if norm == "none":
        return residual(logits) if save else logits
    return NORMS[norm](logits.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)


class FastExternalAttention(ExternalAttention):
    """`ExternalAttention` with folded products, or with a loop over heads; the same parameters."""

    columns = True

    @classmethod
    def loops(cls, **sizes: Any) -> bool:
        """Where folded products cost more multiply-adds than the others."""
        embed_dim, head_dim, units = sizes["embed_dim"], sizes["head_dim"], sizes["memory_size"]
        # Per token and head of one product, against those of the two it replaces.
        return embed_dim * units > head_dim * (embed_dim + units)

    @property
    def folded(self) -> bool:
        """Whether products are folded."""
        embed_dim, _, head_dim = self.query_kernel.shape[-3:]
        units = self.key_memory.shape[-1]
        return not self.loops(embed_dim=embed_dim, head_dim=head_dim, memory_size=units)

    def folded_weights(self) -> Folded:
        """What is computed from the parameters alone."""
        query, memory = self.query_kernel[...], self.key_memory[...]
        value, out = self.value_memory[...], self.out_kernel[...]
        if self.folded:
            first = jnp.einsum("dhk,ks->dsh", query, memory)
            last = jnp.einsum("sk,hkd->shd", value, out)
        else:
            first, last = query, out
        bias = jnp.einsum("k,hkd->d", self.value_memory_bias[...], out) + self.out_bias[...]
        embed_dim = len(bias)
        return first.reshape(embed_dim, -1), last.reshape(-1, embed_dim), bias

    def memory(self, tokens: int, embed_dim: int) -> tuple[int, int]:
        """Folded, the attention of all heads; else that of one, and saved queries and reads."""
        heads, head_dim = self.query_kernel.shape[-2:]
        units = self.key_memory.shape[-1]
        if self.folded:
            return tokens * heads * units, tokens * heads * units
        return tokens * units, 2 * tokens * heads * head_dim

    def _normalize(
        self, logits: Float[Array, "s h b n"], query_bias: Float[Array, "h k"], *, save: bool
    ) -> Float[Array, "s h b n"]:
        if self.norm not in _CANCELS_CONSTANTS:
            constant = self.key_memory[...].T @ query_bias.T + self.key_memory_bias[:, None]
            logits += constant[:, :, None, None]
        if self.norm_groups == 1:
            return normalize(logits, self.norm, save=save)
        # Groups beside the heads: that is where they lie, as unit s is of group `s mod g`.
        by_group = logits.reshape(len(logits) // self.norm_groups, -1, *logits.shape[2:])
        return normalize(by_group, self.norm, save=save).reshape(logits.shape)

    def _attention_of_all(
        self, x: Float[Array, "d b n"], first: Float[Array, "d width"]
    ) -> Float[Array, "s h b n"]:
        """By folded products; tokens are the minor axis, so that all loops over it vectorise."""
        logits = self._project(first, x.reshape(len(x), -1))
        logits = logits.reshape(len(self.key_memory_bias), -1, *x.shape[1:])
        return self._normalize(logits, self.query_bias[...], save=True)

    def _queries(
        self, x: Float[Array, "d b n"], first: Float[Array, "d width"]
    ) -> Float[Array, "h k b n"]:
        queries = residual(self._project(first, x.reshape(len(x), -1)).astype(self.dtype))
        return queries.reshape(*self.query_bias.shape, *x.shape[1:])

    def _attention_of_head(
        self, queries: Float[Array, "k b n"], query_bias: Float[Array, " k"]
    ) -> Float[Array, "s 1 b n"]:
        logits = self._project(self.key_memory[...], queries.reshape(len(queries), -1))
        logits = logits.reshape(-1, 1, *queries.shape[1:])
        return self._normalize(logits, query_bias[None], save=False)

    def weights(self, x: Float[Array, "d b n"]) -> Float[Array, "b h n s"]:
        """The normalised attention A of every head, token and unit, in float32."""
        first, _, _ = self.folded_weights()
        if self.folded:
            return self._attention_of_all(x, first).transpose(2, 1, 3, 0)
        attention = jax.vmap(self._attention_of_head)(self._queries(x, first), self.query_bias[...])
        return attention[:, :, 0].transpose(2, 0, 3, 1)

    def __call__(
        self,
        x: Float[Array, "d b n"],
        *,
        rngs: Key[Array, "b 2"] | None = None,
        folded: Folded | None = None,
    ) -> Float[Array, "d b n"]:
        """Attends; `rngs`, two keys for each example, switch dropout on.

        `folded` is what `self.folded_weights()` gives, for a caller that has formed it before.
        """
        first, last, bias = self.folded_weights() if folded is None else folded
        attention_rngs = rngs_for(rngs, 0)

        def read_head(head: tuple[Array, Array, Array]) -> Array:
            queries, query_bias, index = head
            read = self._attention_of_head(queries, query_bias)
            head_rngs = rngs_for_chunk(attention_rngs, index)
            read = dropout(read, self.dropout_rate, head_rngs, batch_axis=2)
            value = self.value_memory[...]
            return self._project(value, read.reshape(len(value), -1)).astype(self.dtype)

        if self.folded:
            read = self._attention_of_all(x, first)
            read = dropout(read, self.dropout_rate, attention_rngs, batch_axis=2)
        else:
            queries, query_bias = self._queries(x, first), self.query_bias[...]
            heads = (queries, query_bias, jnp.arange(len(queries)))
            read = residual(jax.lax.map(jax.checkpoint(read_head), heads))
        y = self._project(last, read.reshape(len(last), -1))
        y = (y + bias[:, None]).astype(self.dtype).reshape(x.shape)
        return dropout(y, self.dropout_rate, rngs_for(rngs, 1))

    def _project(
        self, kernel: Float[Array, "inputs outputs"], x: Float[Array, "inputs m"]
    ) -> Float[Array, "outputs m"]:
        """`kernel.T @ x` in `dtype` with sums in float32."""
        return project(kernel.astype(self.dtype), x.astype(self.dtype))
