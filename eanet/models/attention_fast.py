r"""External attention, the idea of the paper on one page.

Guo, Liu, Mu and Hu, "Beyond Self-attention: External Attention using Two Linear Layers for Visual
Tasks" (arXiv 2105.02358), in the multi-head form of its classification experiments. With tokens
`x` `[B, N, d]`, H heads of width h and S memory units:

    U = x W_in + b_in          [B, N, H, h]    queries, split into heads
    L = U M_k + b_k            [B, N, H, S]    similarity to each unit of the key memory
    P = softmax over N of L                    a unit's weight over the tokens sums to one
    A = P / (1e-9 + sum_S P)                   a token's weight over the units sums to one
    Y = A M_v + b_v            [B, N, H, h]    read from the value memory
    y = Y W_out + b_out        [B, N, d]       heads joined

**What is the memory, and why is it not just a 1×1 convolution?** `M_k` `[h, S]` and `M_v` `[S, h]`
are ordinary parameters, learned by gradient descent and shared by all samples and all heads: S
prototypes of the whole data set, where self-attention would compare a token with the other tokens
of its own image. Without the normalisation in between, the two products would indeed be two 1×1
convolutions. The softmax over the *tokens* is what makes it attention: a token's weight depends on
how well all other tokens of its image match the same unit, so tokens compete for a unit, and the
division over the *units* then undoes the scale of a unit that matches everything.

**Cost.** `O(d·S·H·N)` multiply-adds, linear in the number of tokens; self-attention is
`O(d·N²)`. Tokens see each other through H·S sums only, so nothing of size N×N ever exists.

**How it is computed.** Tokens are columns: a module takes `[d, B, N]`, and the products of
external attention are `kernel.T @ x`. No nonlinearity stands between `W_in` and `M_k`, nor between
`M_v` and `W_out`. Their products hold no batch axis and are formed once a pass wherever that costs
fewer multiply-adds: same function, same gradients, and the intermediates of width H·h are never
written. Where it costs more, which is where S is large, heads take turns, so that the weights of
one at a time are there; they are computed again for the gradients.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet import rules
from eanet.models.layers import Kernel, dropout, kept, keys_for, keys_for_turn, project, softmax

RULES = {"norm": rules.Choice("double", "softmax_tokens", "softmax_memory")}

# Keeps the division over the units finite where a token matches none of them (paper and Keras).
EPSILON = 1e-9

# Of `ExternalAttention.kernels`.
Kernels = tuple[Array, Array, Array]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def double_normalization(logits: Float[Array, "s h b n"], keep: bool) -> Float[Array, "s h b n"]:
    """Softmax over the tokens n, then division by `EPSILON +` the sum over the units s.

    `keep` is as in `normalize`.
    """
    return _double_normalization(logits)[0]


def _double_normalization(logits):
    weights = jax.nn.softmax(logits, axis=3)
    sums = EPSILON + jnp.sum(weights, axis=0, keepdims=True)
    return weights / sums, sums


def _double_normalization_forward(logits, keep):
    attention, sums = _double_normalization(logits)
    if keep:
        attention, sums = kept(attention), kept(sums)
    return attention, (attention, sums)


def _double_normalization_backward(keep, saved, gradient):
    attention, sums = saved
    # Through the division: the gradient with respect to the softmax, times its value.
    inner = attention * (gradient - jnp.sum(gradient * attention, axis=0, keepdims=True))
    # Through the softmax, whose value is attention * sums.
    return (inner - attention * sums * jnp.sum(inner, axis=3, keepdims=True),)


double_normalization.defvjp(_double_normalization_forward, _double_normalization_backward)


def normalize(logits: Float[Array, "s h b n"], norm: str, *, keep: bool) -> Float[Array, "s h b n"]:
    """Attention weights from logits: over tokens and units, over tokens only, or units only.

    They are `kept` where `keep`; of turns they would be stored of all together.
    """
    if norm == "double":
        return double_normalization(logits, keep)
    return softmax(logits, {"softmax_tokens": 3, "softmax_memory": 0}[norm], keep)


def is_folded(embed_dim: int, head_dim: int, memory_size: int) -> bool:
    """Whether folded products of external attention cost no more multiply-adds than the others."""
    # Per token and head of one product, against those of the two it replaces.
    return embed_dim * memory_size <= head_dim * (embed_dim + memory_size)


class ExternalAttention(nnx.Module):
    """Multi-head external attention with one memory for all heads (see the module's docstring).

    `num_heads=1` is the single-head form of the paper. S, H, h and d are independent.

    Args:
      embed_dim: d, the width of the tokens.
      num_heads: H.
      head_dim: h, the width of a head.
      memory_size: S, the number of units in the memory.
      norm: "double" is the paper's; the others are its ablations and leave one axis out.
      dropout_rate: of the normalised attention and of the output.
      dtype: of the products; normalisations and sums are always float32.
      param_dtype: of the parameters.
      rngs: source of the initial parameters.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        head_dim: int,
        memory_size: int,
        norm: str = "double",
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        rules.check(RULES, {"norm": norm}, "model.")
        width = num_heads * head_dim
        glorot = nnx.initializers.glorot_uniform()

        def kernel(rows: int, columns: int, shape: tuple[int, ...]) -> Kernel:
            return Kernel(glorot(rngs.params(), (rows, columns), param_dtype).reshape(shape))

        def bias(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape, param_dtype))

        self.query_kernel = kernel(embed_dim, width, (embed_dim, num_heads, head_dim))
        self.query_bias = bias(num_heads, head_dim)
        self.key_memory = kernel(head_dim, memory_size, (head_dim, memory_size))
        self.key_memory_bias = bias(memory_size)
        self.value_memory = kernel(memory_size, head_dim, (memory_size, head_dim))
        self.value_memory_bias = bias(head_dim)
        self.out_kernel = kernel(width, embed_dim, (num_heads, head_dim, embed_dim))
        self.out_bias = bias(embed_dim)
        self.norm = norm
        self.dropout_rate = dropout_rate
        self.dtype = dtype
        self.folded = is_folded(embed_dim, head_dim, memory_size)

    def kernels(self) -> Kernels:
        """What is computed from the parameters alone: first and last kernel, and the last bias."""
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

    def _normalize(
        self, logits: Float[Array, "s h b n"], query_bias: Float[Array, "h k"], *, keep: bool
    ) -> Float[Array, "s h b n"]:
        if self.norm == "softmax_memory":
            # A softmax over the tokens cancels what is constant per unit; this one does not.
            constant = self.key_memory[...].T @ query_bias.T + self.key_memory_bias[:, None]
            logits += constant[:, :, None, None]
        return normalize(logits, self.norm, keep=keep)

    def _weights_of_all(
        self, x: Float[Array, "d b n"], kernel: Float[Array, "d width"]
    ) -> Float[Array, "s h b n"]:
        """By folded products; tokens are the minor axis, so that all loops over it vectorise."""
        logits = self._project(kernel, x.reshape(len(x), -1))
        logits = logits.reshape(len(self.key_memory_bias), -1, *x.shape[1:])
        return self._normalize(logits, self.query_bias[...], keep=True)

    def _queries(
        self, x: Float[Array, "d b n"], kernel: Float[Array, "d width"]
    ) -> Float[Array, "h k b n"]:
        queries = kept(self._project(kernel, x.reshape(len(x), -1)).astype(self.dtype))
        return queries.reshape(*self.query_bias.shape, *x.shape[1:])

    def _weights_of_head(
        self, queries: Float[Array, "k b n"], query_bias: Float[Array, " k"]
    ) -> Float[Array, "s 1 b n"]:
        logits = self._project(self.key_memory[...], queries.reshape(len(queries), -1))
        logits = logits.reshape(-1, 1, *queries.shape[1:])
        return self._normalize(logits, query_bias[None], keep=False)

    def weights(self, x: Float[Array, "d b n"]) -> Float[Array, "b h n s"]:
        """The normalised attention A of every head, token and unit, in float32."""
        first, _, _ = self.kernels()
        if self.folded:
            return self._weights_of_all(x, first).transpose(2, 1, 3, 0)
        weights = jax.vmap(self._weights_of_head)(self._queries(x, first), self.query_bias[...])
        return weights[:, :, 0].transpose(2, 0, 3, 1)

    def __call__(
        self,
        x: Float[Array, "d b n"],
        *,
        keys: Key[Array, "b 2"] | None = None,
        kernels: Kernels | None = None,
    ) -> Float[Array, "d b n"]:
        """Attends; `keys`, two for each example, switch dropout on.

        `kernels` are those of `self.kernels()`, for a caller that has formed them before.
        """
        first, last, bias = self.kernels() if kernels is None else kernels
        dropout_keys = keys_for(keys, 0)

        def read_head(turn: tuple[Array, Array, Array]) -> Array:
            queries, query_bias, index = turn
            read = self._weights_of_head(queries, query_bias)
            read = dropout(
                read, self.dropout_rate, keys_for_turn(dropout_keys, index), batch_axis=2
            )
            value = self.value_memory[...]
            return self._project(value, read.reshape(len(value), -1)).astype(self.dtype)

        if self.folded:
            read = self._weights_of_all(x, first)
            read = dropout(read, self.dropout_rate, dropout_keys, batch_axis=2)
        else:
            queries, query_bias = self._queries(x, first), self.query_bias[...]
            turns = (queries, query_bias, jnp.arange(len(queries)))
            read = kept(jax.lax.map(jax.checkpoint(read_head), turns))
        y = self._project(last, read.reshape(len(last), -1))
        y = (y + bias[:, None]).astype(self.dtype).reshape(x.shape)
        return dropout(y, self.dropout_rate, keys_for(keys, 1))

    def _project(
        self, kernel: Float[Array, "inputs outputs"], x: Float[Array, "inputs m"]
    ) -> Float[Array, "outputs m"]:
        """`kernel.T @ x` in `dtype` with sums in float32."""
        return project(kernel.astype(self.dtype), x.astype(self.dtype))
