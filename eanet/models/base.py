"""What the model asks of an attention. Only the constructor and `__call__` have to be written."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import jaxprs_in_params
from jaxtyping import Array, Float, Key

from eanet.errors import UserError
from eanet.rules import Rule


class Attention(nnx.Module):
    """Tokens in, tokens of the same shape out.

    A constructor takes `embed_dim`, then as keywords `num_heads`, `head_dim`, `dropout_rate`,
    `dtype`, `param_dtype`, `rngs`, and the options that `RULES` names, which are keys of
    `config.model`. All other methods have defaults that work.
    """

    RULES: ClassVar[Mapping[str, Rule]] = {}  # of the options that only this attention has
    about: ClassVar[str] = ""  # in Markdown, for the model card; where empty, the card names it
    columns: ClassVar[bool] = False  # takes `[d, B, N]` in place of rows, `[B, N, d]`

    @classmethod
    def loops(cls, **sizes: Any) -> bool:
        """Whether one of these sizes, arguments of its constructor, loops over its heads.

        That makes it the wrong one of several forms on an accelerator, see `eanet.platforms`.
        """
        del sizes
        return False

    def __call__(
        self, x: Float[Array, "b n d"], *, rngs: Key[Array, "b 2"] | None = None
    ) -> Float[Array, "b n d"]:
        """Attends; `rngs`, two keys for each example, switch dropout on.

        Where `folded_weights` gives something, it comes as the keyword `folded`.
        """
        raise NotImplementedError

    def folded_weights(self) -> Any:
        """What can be computed from the parameters alone, once for all microbatches and blocks."""
        return None

    def weights(self, x: Float[Array, "b n d"]) -> Float[Array, "b heads n units"]:
        """The normalised attention in float32, for maps; there may be none.

        Raises:
          UserError: this attention has no maps.
        """
        raise UserError(f"{type(self).__name__} has no attention maps: it has no method weights()")

    def macs(self, tokens: int, embed_dim: int) -> int:
        """Multiply-adds of the matrix products for one image, without forming folded weights.

        By default those of the traced program.
        """
        return sum(times * _macs(equation) for equation, times in self._trace(tokens, embed_dim))

    def memory(self, tokens: int, embed_dim: int) -> tuple[int, int]:
        """Values for one image: the largest array that exists at once, and the saved residuals.

        By default the largest of the traced program, and none: a block computes again what its
        attention does not mark as `eanet.models.ops.residual`.
        """
        sizes = (
            math.prod(result.aval.shape)
            for equation, _ in self._trace(tokens, embed_dim)
            for result in equation.outvars
        )
        return max(sizes, default=0), 0

    def _trace(self, tokens: int, embed_dim: int) -> Iterator[tuple[Any, int]]:
        graphdef, params = nnx.split(self)
        shape = (embed_dim, 1, tokens) if self.columns else (1, tokens, embed_dim)

        def call(params: Any, folded: Any, x: Array) -> Array:
            return nnx.merge(graphdef, params)(x, **folding(folded))

        folded = jax.eval_shape(lambda params: nnx.merge(graphdef, params).folded_weights(), params)
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        return _equations(jax.make_jaxpr(call)(params, folded, x).jaxpr, 1)


def folding(folded: Any) -> dict[str, Any]:
    """Folded weights as a keyword of a call; none where there are none."""
    return {} if folded is None else {"folded": folded}


def _equations(jaxpr: Any, times: int) -> Iterator[tuple[Any, int]]:
    """All equations of a program, inner ones too, and how often each runs."""
    for equation in jaxpr.eqns:
        yield equation, times
        length = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner, times * length)


def _macs(equation: Any) -> int:
    name, output = equation.primitive.name, math.prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return output * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return output * math.prod(kernel) // outputs
    return 0
