"""From images to tokens: the table of stems that a new one is added to.

A stem has `grid`, the rows and columns of its tokens, `position_embedding` `[N, d]`, and `macs()`
for one image.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from eanet.errors import UserError
from eanet.models.layers import LayerNorm, Linear


class Stem(nnx.Module):
    """What stems share: the grid of tokens, and a learned embedding of each place in it.

    A stem of its own has `_build`, `macs` and `_tokens`.

    Args:
      image_shape: height, width and channels; the patch size must divide height and width.
      patch_size: side in pixels of what becomes a token.
      embed_dim: d, the width of a token.

    Raises:
      UserError: if the patch size does not divide height and width, or is none for this stem.
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
        self.grid = (height // patch_size, width // patch_size)
        self._build(channels, embed_dim, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        shape = math.prod(self.grid), embed_dim
        self.position_embedding = nnx.Param(
            jax.random.uniform(rngs.params(), shape, param_dtype, minval=-0.05, maxval=0.05)
        )

    def _build(self, channels: int, embed_dim: int, *, rngs: nnx.Rngs, **dtypes: Any) -> None:
        """Makes what `_tokens` computes with."""
        raise NotImplementedError

    def macs(self) -> int:
        """Multiply-adds of the products for one image."""
        raise NotImplementedError

    def _tokens(self, images: Float[Array, "b height width c"]) -> Float[Array, "d b n"]:
        """Tokens in row-major order, that know nothing of their places."""
        raise NotImplementedError

    def __call__(self, images: Float[Array, "b height width c"]) -> Float[Array, "d b n"]:
        """Tokens in row-major order, with the embedding of their places."""
        if images.shape[1:] != self.image_shape:
            raise UserError(
                f"the model was built for images of shape {self.image_shape}, "
                f"but got {images.shape[1:]}"
            )
        tokens = self._tokens(images)
        return tokens + self.position_embedding[...].T[:, None, :].astype(tokens.dtype)


class Patches(Stem):
    """Cuts images into non-overlapping patches and projects them, as the Keras example does."""

    def _build(self, channels: int, embed_dim: int, *, rngs: nnx.Rngs, **dtypes: Any) -> None:
        self.projection = Linear(self.patch_size**2 * channels, embed_dim, rngs=rngs, **dtypes)

    def macs(self) -> int:
        """Multiply-adds of the projection for one image."""
        return math.prod(self.grid) * math.prod(self.projection.kernel.shape)

    def _tokens(self, images: Float[Array, "b height width c"]) -> Float[Array, "d b n"]:
        """Inside a patch: row, column, channel."""
        batch, _, _, channels = images.shape
        rows, columns = self.grid
        size = self.patch_size
        patches = images.reshape(batch, rows, size, columns, size, channels)
        patches = patches.transpose(2, 4, 5, 0, 1, 3)
        return self.projection(patches.reshape(size * size * channels, batch, rows * columns))


class Convolutions(Stem):
    """3×3 convolutions of stride 2, each halving the sides, up to the size of a patch.

    As in Xiao et al., "Early Convolutions Help Transformers See Better" (arXiv 2106.14881): the
    width doubles with each, up to d; a layer norm and GELU stand between them. The patch size is a
    power of two from 2 on, and d can be halved as often as there are convolutions but one.
    """

    def _build(self, channels: int, embed_dim: int, *, rngs: nnx.Rngs, **dtypes: Any) -> None:
        steps = self.patch_size.bit_length() - 1
        if self.patch_size != 2**steps or not steps:
            raise UserError(
                f"model.stem=convolutions halves the sides of images again and again, which does "
                f"not end at model.patch_size={self.patch_size}: choose 2, 4, 8, …"
            )
        if embed_dim % 2 ** (steps - 1):
            raise UserError(
                f"model.stem=convolutions doubles the width {steps - 1} times up to "
                f"model.embed_dim={embed_dim}, which {2 ** (steps - 1)} does not divide"
            )
        widths = [channels, *(embed_dim >> step for step in reversed(range(steps)))]
        self.layers = nnx.List(
            Linear(9 * inputs, outputs, rngs=rngs, **dtypes)
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.norms = nnx.List(LayerNorm(width, **dtypes) for width in widths[1:-1])

    def macs(self) -> int:
        """Multiply-adds of the convolutions for one image."""
        tokens, last = math.prod(self.grid), len(self.layers) - 1
        return sum(
            tokens * 4 ** (last - index) * math.prod(layer.kernel.shape)
            for index, layer in enumerate(self.layers)
        )

    def _tokens(self, images: Float[Array, "b height width c"]) -> Float[Array, "d b n"]:
        x = self.layers[0](_neighbourhoods(images.transpose(3, 0, 1, 2)))
        for norm, layer in zip(self.norms, self.layers[1:], strict=True):
            channels, batch, rows, columns = x.shape
            x = jax.nn.gelu(norm(x.reshape(channels, batch, -1)), approximate=False)
            x = layer(_neighbourhoods(x.reshape(channels, batch, rows, columns)))
        return x.reshape(*x.shape[:2], -1)


def _neighbourhoods(
    x: Float[Array, "c b height width"],
) -> Float[Array, "9*c b height//2 width//2"]:
    """The 3×3 pixels about every second one, zero outside: row, column, channel.

    A convolution is then one product of long rows; XLA:CPU's own are slow with features first.
    Even and odd rows and columns are parted first, once: slices of stride 2 are slow as well, and
    their gradients slower.
    """
    channels, batch, height, width = x.shape
    x = x.reshape(channels, batch, height // 2, 2, width // 2, 2).transpose(3, 5, 0, 1, 2, 4)
    # Around the even pixel 2i lie the odd ones of i - 1 and i.
    return jnp.concatenate(
        [
            _moved(x[row, column], down, right)
            for row, down in ((1, 1), (0, 0), (1, 0))
            for column, right in ((1, 1), (0, 0), (1, 0))
        ]
    )


def _moved(
    x: Float[Array, "c b rows columns"], down: int, right: int
) -> Float[Array, "c b rows columns"]:
    """All moved by so many rows and columns; what leaves is dropped, zeros follow."""
    rows, columns = x.shape[2:]
    x = x[:, :, : rows - down, : columns - right]
    return jnp.pad(x, ((0, 0), (0, 0), (down, 0), (right, 0)))


# By `model.stem`.
STEMS: dict[str, type[Stem]] = {"patches": Patches, "convolutions": Convolutions}
