"""EANet: patches, pre-norm blocks of an attention and an MLP, pooling, linear head.

The default arguments are those of the Keras example "Image classification with EANet". Between the
patches and the head tokens are columns, `[d, B, N]`, see `eanet.models.ops`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet import rules
from eanet.models.attentions import (
    ATTENTIONS,
    attention_class,
    attention_rules,
    implementation_for,
)
from eanet.models.base import Attention, folding
from eanet.models.dropout import rngs_for, split_rngs
from eanet.models.layers import LayerNorm, Linear, Mlp
from eanet.models.local_mixing import LocalMixing
from eanet.models.no_attention import NoAttention
from eanet.models.ops import saving_residuals
from eanet.models.pooling import POOLINGS
from eanet.models.residual_scale import ResidualScale
from eanet.models.stems import STEMS
from eanet.models.stochastic_depth import rates_of_blocks, skip_at_random
from eanet.rules import Choice, NameIn, Number, Rule, Switch

_DTYPE = Choice("float32", "bfloat16", "float16")
_SIZE = Number(1, 65_536, whole=True)
RULES: dict[str, Rule] = {
    "stem": NameIn(STEMS),
    "patch_size": _SIZE,
    "embed_dim": _SIZE,
    "depth": Number(1, 1000, whole=True),
    "num_heads": _SIZE,
    "head_dim": _SIZE,
    "mlp_dim": _SIZE,
    "attention": NameIn(ATTENTIONS),
    "implementation": Choice("auto", "fast", "plain"),
    "local_mixing": Switch(),
    "residual_scale": Number(0, 1),
    "final_norm": Switch(),
    "pooling": NameIn(POOLINGS),
    "dropout_rate": Number(0, 0.999),
    "stochastic_depth": Number(0, 0.999),
    "dtype": _DTYPE,
    "param_dtype": _DTYPE,
}

# Switch dropout on: one key an example, of which alone what is dropped in it is then a function, or
# one key for the batch.
Rngs = Key[Array, "b"] | Key[Array, ""] | None


def model_rules() -> dict[str, Rule]:
    """What every option of `EANet` may be, those of its attentions too."""
    return RULES | attention_rules()


class Block(nnx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; before them neighbours may mix."""

    def __init__(
        self,
        attention: Callable[..., Attention],
        embed_dim: int,
        mlp_dim: int,
        *,
        attention_options: Mapping[str, Any],
        grid: tuple[int, int] | None,
        residual_scale: float,
        dtypes: Mapping[str, Any],
        rngs: nnx.Rngs,
        **options: Any,
    ):
        options = options | {"rngs": rngs}
        self.local_mixing = LocalMixing(embed_dim, grid, rngs=rngs, **dtypes) if grid else None
        attends = attention is not NoAttention
        self.attention_norm = LayerNorm(embed_dim, **dtypes) if attends else None
        self.attention = attention(embed_dim, **dtypes, **options, **attention_options)
        self.mlp_norm = LayerNorm(embed_dim, **dtypes)
        self.mlp = Mlp(embed_dim, mlp_dim, **dtypes, **options)

        def scale() -> ResidualScale | None:
            return ResidualScale(embed_dim, residual_scale, **dtypes) if residual_scale else None

        self.attention_scale = scale() if attends else None
        self.mlp_scale = scale()

    def __call__(
        self,
        x: Float[Array, "d b n"],
        *,
        rngs: Key[Array, "b"] | None = None,
        folded: Any = None,
        skip_rate: Float[Array, ""] | None = None,
    ) -> Float[Array, "d b n"]:
        """Mixes and maps the tokens; `rngs`, one key for each example, switch dropout on.

        `folded` are the folded weights of the attention, where they were formed before. With keys
        and a `skip_rate` images skip attention or MLP at random, see `stochastic_depth`.
        """
        # Not before the loop over blocks: XLA would look up a key in the stack for every value.
        rngs = None if rngs is None else split_rngs(rngs, 4 if skip_rate is None else 6)

        def added(branch: Array, scale: ResidualScale | None, index: int) -> Array:
            branch = branch if scale is None else scale(branch)
            if rngs is None or skip_rate is None:
                return branch
            return skip_at_random(branch, skip_rate, rngs[:, index])

        x = self._mix(x)
        if self.attention_norm is not None:
            attended = self._attend(self.attention_norm(x), rngs_for(rngs, slice(0, 2)), folded)
            x = x + added(attended, self.attention_scale, 4)
        mapped = self.mlp(self.mlp_norm(x), rngs=rngs_for(rngs, slice(2, 4)))
        return x + added(mapped, self.mlp_scale, 5)

    def _mix(self, x: Float[Array, "d b n"]) -> Float[Array, "d b n"]:
        return x if self.local_mixing is None else self.local_mixing(x)

    def _attend(
        self, x: Float[Array, "d b n"], rngs: Array | None, folded: Any
    ) -> Float[Array, "d b n"]:
        if self.attention.columns:
            return self.attention(x, rngs=rngs, **folding(folded))
        return self.attention(_rows(x), rngs=rngs, **folding(folded)).transpose(2, 0, 1)

    def attention_map(self, x: Float[Array, "d b n"]) -> Float[Array, "b heads n units"]:
        """The normalised attention for the block's input."""
        x = self._mix(x)
        x = x if self.attention_norm is None else self.attention_norm(x)
        return self.attention.weights(x if self.attention.columns else _rows(x))


class EANet(nnx.Module):
    """A vision transformer with external attention (arXiv 2105.02358).

    Args:
      num_classes: number of logits.
      image_shape: height, width and channels of the images.
      stem: a name in `eanet.models.stems.STEMS`: "patches", or "convolutions".
      patch_size: side of a patch in pixels; must divide height and width.
      embed_dim: d, the width of a token.
      depth: number of blocks.
      num_heads: H. Independent of `embed_dim` and `head_dim`.
      head_dim: h, the width of a head.
      mlp_dim: width of the hidden layer of the MLP.
      attention: a name in `eanet.models.attentions.ATTENTIONS`: "external", or for the baselines
        "self", with multi-head self-attention, and "none", with an MLP alone in each block.
      implementation: "fast", or "plain" for the formulas as they are written in
        `eanet.models.attention`; the same function. "auto" takes what suits the platform.
      local_mixing: a depthwise 3×3 convolution over the grid of tokens at the start of each block.
      residual_scale: initial value of a learned factor of each feature of what attention and MLP
        add; 0 for no such factors.
      final_norm: a layer norm before the tokens are pooled; the Keras example has none.
      pooling: a name in `eanet.models.pooling.POOLINGS`: "mean", or "attention".
      dropout_rate: after the normalised attention, its output, GELU and the MLP's output.
      stochastic_depth: with which probability a training image skips attention or MLP of the last
        block; those before it linearly less often, see `eanet.models.stochastic_depth`.
      dtype: of the computation ("float32" or "bfloat16"); statistics and sums stay float32.
      param_dtype: of the parameters.
      rngs: source of the initial parameters.
      **attention_options: such as `memory_size` and `norm` of external attention; those that are
        another attention's are left out.

    Raises:
      UserError: for shapes that are impossible; the message names the config key.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        *,
        stem: str = "patches",
        patch_size: int = 2,
        embed_dim: int = 64,
        depth: int = 8,
        num_heads: int = 16,
        head_dim: int = 16,
        mlp_dim: int = 64,
        attention: str = "external",
        implementation: str = "fast",
        local_mixing: bool = False,
        residual_scale: float = 0.0,
        final_norm: bool = False,
        pooling: str = "mean",
        dropout_rate: float = 0.2,
        stochastic_depth: float = 0.0,
        dtype: str = "float32",
        param_dtype: str = "float32",
        rngs: nnx.Rngs,
        **attention_options: Any,
    ):
        given = {name: value for name, value in locals().items() if name in RULES}
        if unknown := attention_options.keys() - attention_rules().keys():
            raise TypeError(f"EANet has no option {min(unknown)!r}")
        rules.check(model_rules(), given | attention_options, "model.")
        if implementation == "auto":
            sizes = {"embed_dim": embed_dim, "head_dim": head_dim, "memory_size": 16}
            implementation = implementation_for(attention, **sizes | attention_options)
        kind = attention_class(attention, implementation)
        own = {name: value for name, value in attention_options.items() if name in kind.RULES}
        dtypes: Any = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(param_dtype)}
        self.patch_embed = STEMS[stem](
            image_shape, patch_size=patch_size, embed_dim=embed_dim, rngs=rngs, **dtypes
        )
        self.attention, self.depth = attention, depth
        self.stochastic_depth = stochastic_depth
        grid = self.patch_embed.grid if local_mixing else None

        @nnx.split_rngs(splits=depth)
        @nnx.vmap
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(
                kind,
                embed_dim,
                mlp_dim,
                attention_options={"num_heads": num_heads, "head_dim": head_dim, **own},
                grid=grid,
                residual_scale=residual_scale,
                dtypes=dtypes,
                dropout_rate=dropout_rate,
                rngs=rngs,
            )

        # One module for all blocks, each of whose parameters has the block as its first axis: they
        # are compiled once, and the optimizer has 21 tensors to update, whatever the depth.
        self.blocks = stacked(rngs)
        self.final_norm = LayerNorm(embed_dim, **dtypes) if final_norm else None
        self.pooling = POOLINGS[pooling](embed_dim, rngs=rngs, **dtypes)
        self.head = Linear(embed_dim, num_classes, rngs=rngs, **dtypes)

    def block(self, index: int) -> Block:
        """One of the blocks."""
        graphdef, params = nnx.split(self.blocks)
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[index], params))

    @property
    def stage_names(self) -> list[str]:
        """Of `stages`, in order."""
        blocks = [f"blocks/{index}" for index in range(self.depth)]
        return ["patch_embed", *blocks, *(["final_norm"] if self.final_norm else [])]

    def stages(
        self, images: Float[Array, "b height width c"], *, rngs: Rngs = None
    ) -> list[Float[Array, "b n d"]]:
        """The tokens after the patch embedding, each block, and the final norm if there is one."""
        embedded = self.patch_embed(images)
        _, mixed = self._mixed(embedded, rngs, all_blocks=True)
        columns = [embedded, *(mixed[index] for index in range(self.depth))]
        if self.final_norm is not None:
            columns.append(self.final_norm(columns[-1]))
        return [_rows(x) for x in columns]

    def features(
        self, images: Float[Array, "b height width c"], *, rngs: Rngs = None
    ) -> Float[Array, "b n d"]:
        """The tokens that are pooled for the head."""
        return _rows(self._features(images, rngs))

    def _features(
        self, images: Float[Array, "b height width c"], rngs: Rngs
    ) -> Float[Array, "d b n"]:
        tokens, _ = self._mixed(self.patch_embed(images), rngs)
        return tokens if self.final_norm is None else self.final_norm(tokens)

    def _mixed(
        self, tokens: Float[Array, "d b n"], rngs: Array | None, *, all_blocks: bool = False
    ) -> tuple[Float[Array, "d b n"], Any]:
        """The tokens after the last block and, if wanted, after each."""
        graphdef, params = nnx.split(self.blocks)
        if rngs is not None:
            rngs = jax.random.split(rngs, tokens.shape[1]) if rngs.ndim == 0 else rngs
            rngs = split_rngs(rngs, self.depth).swapaxes(0, 1)

        # Of all blocks at once, and not again for the gradients.
        folded = jax.vmap(lambda params: nnx.merge(graphdef, params).attention.folded_weights())(
            params
        )

        @saving_residuals
        def body(tokens: Array, block: tuple[Any, ...]) -> tuple[Array, Array | None]:
            params, folded, rngs, skip_rate = block
            tokens = nnx.merge(graphdef, params)(
                tokens, rngs=rngs, folded=folded, skip_rate=skip_rate
            )
            return tokens, tokens if all_blocks else None

        skip_rates = None if rngs is None else rates_of_blocks(self.stochastic_depth, self.depth)
        return jax.lax.scan(body, tokens, (params, folded, rngs, skip_rates))

    def __call__(
        self, images: Float[Array, "b height width c"], *, rngs: Rngs = None
    ) -> Float[Array, "b classes"]:
        """Logits, in float32, of images that are normalised per channel."""
        return self.head(self.pooling(self._features(images, rngs))).T.astype(jnp.float32)

    def attention_maps(
        self, images: Float[Array, "b height width c"]
    ) -> list[Float[Array, "b heads n units"]]:
        """The normalised attention of each block: over memory units, or tokens for "self"."""
        maps = []
        x = self.patch_embed(images)
        for block in map(self.block, range(self.depth)):
            maps.append(block.attention_map(x))
            x = block(x)
        return maps


def _rows(columns: Float[Array, "d b n"]) -> Float[Array, "b n d"]:
    return columns.transpose(1, 2, 0)
