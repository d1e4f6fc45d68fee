"""EANet: patches, pre-norm blocks of (external) attention, mean over tokens, linear head.

The default arguments are those of the Keras example "Image classification with EANet". Between the
patches and the head tokens are columns, `[d, B, N]`, see `eanet.models.layers`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet import rules
from eanet.errors import UserError
from eanet.models import attention_fast as attention_lib
from eanet.models.attention_fast import ExternalAttention, Kernels
from eanet.models.layers import LayerNorm, Linear, dropout, keeping_what_is_marked, kept, keys_for
from eanet.models.self_attention import SelfAttention
from eanet.rules import Choice, Number, Switch

_DTYPE = Choice("float32", "bfloat16", "float16")
_SIZE = Number(1, 65_536, whole=True)
RULES: dict[str, rules.Rule] = {
    "patch_size": _SIZE,
    "embed_dim": _SIZE,
    "depth": Number(1, 1000, whole=True),
    "num_heads": _SIZE,
    "head_dim": _SIZE,
    "memory_size": _SIZE,
    "mlp_dim": _SIZE,
    "attention": Choice("external", "self"),
    **attention_lib.RULES,
    "final_norm": Switch(),
    "dropout_rate": Number(0, 0.999),
    "dtype": _DTYPE,
    "param_dtype": _DTYPE,
}


class PatchEmbed(nnx.Module):
    """Cuts images into non-overlapping patches, projects them and adds a position embedding.

    Args:
      image_shape: height, width and channels; the patch size must divide height and width.
      patch_size: side p of a patch in pixels.
      embed_dim: d, the width of a token.

    Raises:
      UserError: if the patch size does not divide height and width.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        patch_size: int,
        embed_dim: int,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        height, width, channels = image_shape
        for name, size in (("height", height), ("width", width)):
            if size % patch_size:
                raise UserError(
                    f"model.patch_size={patch_size} does not divide the images' {name} of {size} "
                    f"pixels: choose a divisor of {height} and {width}"
                )
        self.image_shape = tuple(image_shape)
        self.patch_size = patch_size
        self.num_tokens = (height // patch_size) * (width // patch_size)
        self.projection = Linear(
            patch_size * patch_size * channels,
            embed_dim,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.position_embedding = nnx.Param(
            jax.random.uniform(
                rngs.params(), (self.num_tokens, embed_dim), param_dtype, minval=-0.05, maxval=0.05
            )
        )

    def __call__(self, images: Float[Array, "b height width c"]) -> Float[Array, "d b n"]:
        """Tokens of the patches in row-major order; inside a patch: row, column, channel."""
        if images.shape[1:] != self.image_shape:
            raise UserError(
                f"the model was built for images of shape {self.image_shape}, "
                f"but got {images.shape[1:]}"
            )
        batch, height, width, channels = images.shape
        size = self.patch_size
        patches = images.reshape(batch, height // size, size, width // size, size, channels)
        patches = patches.transpose(2, 4, 5, 0, 1, 3).reshape(-1, batch, self.num_tokens)
        tokens = self.projection(patches)
        return tokens + self.position_embedding[...].T[:, None, :].astype(tokens.dtype)


class Mlp(nnx.Module):
    """Two linear layers with exact GELU between them and dropout after each."""

    def __init__(
        self,
        embed_dim: int,
        mlp_dim: int,
        *,
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.hidden = Linear(embed_dim, mlp_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.out = Linear(mlp_dim, embed_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.dropout_rate = dropout_rate

    def __call__(
        self, x: Float[Array, "d b n"], *, keys: Key[Array, "b 2"] | None = None
    ) -> Float[Array, "d b n"]:
        """Maps every token; `keys`, two for each example, switch dropout on."""
        hidden = jax.nn.gelu(kept(self.hidden(x)), approximate=False)
        hidden = kept(dropout(hidden, self.dropout_rate, keys_for(keys, 0)))
        return dropout(self.out(hidden), self.dropout_rate, keys_for(keys, 1))


class Block(nnx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(
        self,
        attention: Callable[..., Any],
        *,
        embed_dim: int,
        mlp_dim: int,
        dropout_rate: float,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.attention_norm = LayerNorm(embed_dim, dtype=dtype, param_dtype=param_dtype)
        self.attention = attention(embed_dim, dropout_rate=dropout_rate, **options)
        self.mlp_norm = LayerNorm(embed_dim, dtype=dtype, param_dtype=param_dtype)
        self.mlp = Mlp(embed_dim, mlp_dim, dropout_rate=dropout_rate, **options)

    def __call__(
        self,
        x: Float[Array, "d b n"],
        *,
        keys: Key[Array, "b"] | None = None,
        kernels: Kernels | None = None,
    ) -> Float[Array, "d b n"]:
        """Mixes and maps the tokens; `keys`, one for each example, switch dropout on.

        `kernels` are those of the attention, where they were formed before.
        """
        # Not before the loop over blocks: XLA would look up a key in the stack for every value.
        keys = None if keys is None else _split(keys, 4)
        normed = self.attention_norm(x)
        x = x + self.attention(normed, keys=keys_for(keys, slice(0, 2)), kernels=kernels)
        return x + self.mlp(self.mlp_norm(x), keys=keys_for(keys, slice(2, 4)))


class EANet(nnx.Module):
    """A vision transformer with external attention (arXiv 2105.02358).

    Args:
      num_classes: number of logits.
      image_shape: height, width and channels of the images.
      patch_size: side of a patch in pixels; must divide height and width.
      embed_dim: d, the width of a token.
      depth: number of blocks.
      num_heads: H. Independent of `embed_dim` and `head_dim`.
      head_dim: h, the width of a head.
      memory_size: S, the number of memory units of external attention.
      mlp_dim: width of the hidden layer of the MLP.
      attention: "external", or "self" for the baseline with multi-head self-attention.
      norm: of external attention, see `eanet.models.attention_fast`.
      final_norm: a layer norm before the mean over tokens; the Keras example has none.
      dropout_rate: after the normalised attention, its output, GELU and the MLP's output.
      dtype: of the computation ("float32" or "bfloat16"); statistics and sums stay float32.
      param_dtype: of the parameters.
      rngs: source of the initial parameters.

    Raises:
      UserError: for shapes that are impossible; the message names the config key.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        *,
        patch_size: int = 2,
        embed_dim: int = 64,
        depth: int = 8,
        num_heads: int = 16,
        head_dim: int = 16,
        memory_size: int = 16,
        mlp_dim: int = 64,
        attention: str = "external",
        norm: str = "double",
        final_norm: bool = False,
        dropout_rate: float = 0.2,
        dtype: str = "float32",
        param_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        options = {
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "memory_size": memory_size,
            "mlp_dim": mlp_dim,
            "attention": attention,
            "norm": norm,
            "final_norm": final_norm,
            "dropout_rate": dropout_rate,
            "dtype": dtype,
            "param_dtype": param_dtype,
        }
        rules.check(RULES, options, "model.")
        dtypes: dict[str, Any] = {
            "dtype": jnp.dtype(dtype),
            "param_dtype": jnp.dtype(param_dtype),
        }

        def attend(embed_dim: int, **options: Any) -> ExternalAttention | SelfAttention:
            options.update(num_heads=num_heads, head_dim=head_dim)
            if attention == "external":
                return ExternalAttention(embed_dim, memory_size=memory_size, norm=norm, **options)
            return SelfAttention(embed_dim, **options)

        self.patch_embed = PatchEmbed(
            image_shape, patch_size=patch_size, embed_dim=embed_dim, rngs=rngs, **dtypes
        )
        self.depth = depth

        @nnx.split_rngs(splits=depth)
        @nnx.vmap
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(
                attend,
                embed_dim=embed_dim,
                mlp_dim=mlp_dim,
                dropout_rate=dropout_rate,
                rngs=rngs,
                **dtypes,
            )

        # One module for all blocks, each of whose parameters has the block as its first axis: they
        # are compiled once, and the optimizer has 21 tensors to update, whatever the depth.
        self.blocks = stacked(rngs)
        self.final_norm = LayerNorm(embed_dim, **dtypes) if final_norm else None
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
        self,
        images: Float[Array, "b height width c"],
        *,
        keys: Key[Array, "b"] | Key[Array, ""] | None = None,
    ) -> list[Float[Array, "b n d"]]:
        """The tokens after the patch embedding, each block, and the final norm if there is one."""
        embedded = self.patch_embed(images)
        _, mixed = self._mixed(embedded, keys, keep_all=True)
        columns = [embedded, *(mixed[index] for index in range(self.depth))]
        if self.final_norm is not None:
            columns.append(self.final_norm(columns[-1]))
        return [x.transpose(1, 2, 0) for x in columns]

    def features(
        self,
        images: Float[Array, "b height width c"],
        *,
        keys: Key[Array, "b"] | Key[Array, ""] | None = None,
    ) -> Float[Array, "b n d"]:
        """The tokens that the head takes the mean of."""
        return self._features(images, keys).transpose(1, 2, 0)

    def _features(
        self, images: Float[Array, "b height width c"], keys: Array | None
    ) -> Float[Array, "d b n"]:
        tokens, _ = self._mixed(self.patch_embed(images), keys)
        return tokens if self.final_norm is None else self.final_norm(tokens)

    def _mixed(
        self, tokens: Float[Array, "d b n"], keys: Array | None, *, keep_all: bool = False
    ) -> tuple[Float[Array, "d b n"], Any]:
        """The tokens after the last block and, if wanted, after each."""
        graphdef, params = nnx.split(self.blocks)
        if keys is not None:
            keys = jax.random.split(keys, tokens.shape[1]) if keys.ndim == 0 else keys
            keys = _split(keys, self.depth).swapaxes(0, 1)

        # Of all blocks at once, and not again for the gradients.
        kernels = jax.vmap(lambda params: nnx.merge(graphdef, params).attention.kernels())(params)

        @keeping_what_is_marked
        def body(tokens: Array, block: tuple[Any, ...]) -> tuple[Array, Array | None]:
            params, kernels, keys = block
            tokens = nnx.merge(graphdef, params)(tokens, keys=keys, kernels=kernels)
            return tokens, tokens if keep_all else None

        return jax.lax.scan(body, tokens, (params, kernels, keys))

    def __call__(
        self,
        images: Float[Array, "b height width c"],
        *,
        keys: Key[Array, "b"] | Key[Array, ""] | None = None,
    ) -> Float[Array, "b classes"]:
        """Logits, in float32.

        Args:
          images: normalised per channel.
          keys: switch dropout on: one key an example (what is dropped in it is then a function
            of its key alone), or one key for the batch.
        """
        tokens = self._features(images, keys).astype(jnp.float32)
        return self.head(jnp.mean(tokens, axis=2)).T.astype(jnp.float32)

    def attention_maps(
        self, images: Float[Array, "b height width c"]
    ) -> list[Float[Array, "b heads n units"]]:
        """The normalised attention of each block: over memory units, or tokens for "self"."""
        maps = []
        x = self.patch_embed(images)
        for block in map(self.block, range(self.depth)):
            maps.append(block.attention.weights(block.attention_norm(x)))
            x = block(x)
        return maps


def _split(keys: Key[Array, "b"], parts: int) -> Key[Array, "b parts"]:
    """As many keys for each example."""
    return jax.vmap(lambda key: jax.random.split(key, parts))(keys)
