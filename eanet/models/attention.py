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

`eanet.models.attention_fast` computes the same function; `model.implementation` chooses.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet import rules
from eanet.errors import UserError
from eanet.models.base import Attention
from eanet.models.dropout import dropout_rows, rngs_for
from eanet.models.layers import Kernel

# Keeps the division over the units finite where a token matches none of them (paper and Keras).
EPSILON = 1e-9


# Units are one axis, or two where they are in groups: then each group is normalised by itself.
Logits = Float[Array, "b n h s *groups"]


def double(logits: Logits) -> Logits:
    """The paper's: a softmax over the tokens, then division by the sum over the units."""
    weights = jax.nn.softmax(logits, axis=1)
    return weights / (EPSILON + jnp.sum(weights, axis=3, keepdims=True))


def linear(logits: Logits) -> Logits:
    """None: the logits are the attention, so that the two memories are two linear layers."""
    return logits


# From logits to attention, by the name that `model.norm` has for it.
NORMS: dict[str, Callable[[Logits], Logits]] = {
    "double": double,
    "softmax_tokens": lambda logits: jax.nn.softmax(logits, axis=1),
    "softmax_memory": lambda logits: jax.nn.softmax(logits, axis=3),
    "none": linear,
}


class ExternalAttention(Attention):
    """Multi-head external attention with one memory for all heads (see the module's docstring).

    `num_heads=1` is the single-head form of the paper. S, H, h and d are independent.

    Args:
      embed_dim: d, the width of the tokens.
      num_heads: H.
      head_dim: h, the width of a head.
      memory_size: S, the number of units in the memory.
      norm: one of `NORMS`; "double" is the paper's, the others leave one axis or both out. With
        "none", `A = L`, no token sees another.
      norm_groups: g. Where a norm has a sum over the units, each of g groups of S/g units has its
        own, so that a token's weights over each group sum to one: the grouped double normalisation
        of RTFormer (arXiv 2210.07124). Unit s is of group `s mod g`. 1 is the paper's.
      dropout_rate: of the normalised attention and of the output.
      dtype: of the products; normalisations and sums are always float32.
      param_dtype: of the parameters.
      rngs: source of the initial parameters.

    Raises:
      UserError: for values that cannot be.
    """

    RULES: ClassVar = {
        "memory_size": rules.Number(1, 65_536, whole=True),
        "norm": rules.NameIn(NORMS),
        "norm_groups": rules.Number(1, 65_536, whole=True),
    }
    about = """\
Its blocks mix tokens by *external attention*
([Guo et al., 2021](https://arxiv.org/abs/2105.02358)): instead of comparing every token with every
other one, each head compares its tokens with a small memory that is learned and shared by all
images. With token features `U`, a memory of keys `M_k` and one of values `M_v`,

    attention = normalise(U · M_kᵀ),    output = attention · M_v

where `normalise` is, in the form of the paper, a softmax over the tokens followed by division by
the sum over the memory. The cost is linear in the number of tokens."""

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        head_dim: int,
        memory_size: int = 16,
        norm: str = "double",
        norm_groups: int = 1,
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        given: Any = {"memory_size": memory_size, "norm": norm, "norm_groups": norm_groups}
        rules.check(self.RULES, given, "model.")
        if norm_groups > 1:
            _check_groups(**given)
        width = num_heads * head_dim
        glorot = nnx.initializers.glorot_uniform()

        def kernel(rows: int, columns: int, shape: tuple[int, ...], axes: str) -> Kernel:
            return Kernel(glorot(rngs.params(), (rows, columns), param_dtype).reshape(shape), axes)

        def bias(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape, param_dtype))

        self.query_kernel = kernel(embed_dim, width, (embed_dim, num_heads, head_dim), "ioo")
        self.query_bias = bias(num_heads, head_dim)
        self.key_memory = kernel(head_dim, memory_size, (head_dim, memory_size), "io")
        self.key_memory_bias = bias(memory_size)
        self.value_memory = kernel(memory_size, head_dim, (memory_size, head_dim), "io")
        self.value_memory_bias = bias(head_dim)
        self.out_kernel = kernel(width, embed_dim, (num_heads, head_dim, embed_dim), "iio")
        self.out_bias = bias(embed_dim)
        self.norm, self.norm_groups = norm, norm_groups
        self.dropout_rate = dropout_rate
        self.dtype = dtype

    def _attention(self, x: Float[Array, "b n d"]) -> Float[Array, "b n h s"]:
        queries = self._product("bnd,dhk->bnhk", x, self.query_kernel) + self.query_bias[None, None]
        logits = self._product("bnhk,ks->bnhs", queries, self.key_memory)
        logits = logits + self.key_memory_bias[None, None, None]
        if self.norm_groups == 1:
            return NORMS[self.norm](logits)
        grouped = logits.reshape(*logits.shape[:3], -1, self.norm_groups)
        return NORMS[self.norm](grouped).reshape(logits.shape)

    def weights(self, x: Float[Array, "b n d"]) -> Float[Array, "b h n s"]:
        """The normalised attention A of every head, token and unit, in float32."""
        return self._attention(x).swapaxes(1, 2)

    def __call__(
        self, x: Float[Array, "b n d"], *, rngs: Key[Array, "b 2"] | None = None
    ) -> Float[Array, "b n d"]:
        """Attends; `rngs`, two keys for each example, switch dropout on."""
        attention = dropout_rows(self._attention(x), self.dropout_rate, rngs_for(rngs, 0))
        read = self._product("bnhs,sk->bnhk", attention, self.value_memory)
        read = read + self.value_memory_bias[None, None, None]
        y = self._product("bnhk,hkd->bnd", read, self.out_kernel) + self.out_bias[None, None]
        return dropout_rows(y.astype(self.dtype), self.dropout_rate, rngs_for(rngs, 1))

    def _product(self, axes: str, x: Array, kernel: Kernel) -> Array:
        """Operands in `dtype`, sums in float32."""
        operands = x.astype(self.dtype), kernel[...].astype(self.dtype)
        return jnp.einsum(axes, *operands, preferred_element_type=jnp.float32)


def _check_groups(memory_size: int, norm: str, norm_groups: int) -> None:
    if norm not in ("double", "softmax_memory"):
        raise UserError(
            f"model.norm_groups={norm_groups} has no effect with model.norm={norm}, which has no "
            "sum over the units"
        )
    if memory_size % norm_groups:
        raise UserError(
            f"model.norm_groups={norm_groups} does not divide model.memory_size={memory_size}"
        )
