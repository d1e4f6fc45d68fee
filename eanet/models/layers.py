"""The modules that blocks are made of. Tokens are columns, `[d, B, N]`, see `eanet.models.ops`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from eanet.errors import UserError
from eanet.models.dropout import dropout, rngs_for
from eanet.models.ops import project, residual, standardize


class Kernel(nnx.Param):
    """The matrix of a linear map: the kind of parameter that weight decay and Muon are for.

    Args:
      value: the matrix, or an array whose axes are parts of its rows and columns.
      axes: for each axis of `value` whether it is one of the inputs, "i", or of the outputs, "o".
    """

    def __init__(self, value: Any, axes: str = "io", **metadata: Any):
        super().__init__(value, axes=axes, **metadata)


class LayerNorm(nnx.Module):
    """Layer normalisation over the features; statistics in float32, output in `dtype`."""

    def __init__(
        self,
        embed_dim: int,
        *,
        epsilon: float = 1e-5,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        self.scale = nnx.Param(jnp.ones(embed_dim, param_dtype))
        self.bias = nnx.Param(jnp.zeros(embed_dim, param_dtype))
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: Float[Array, "d b n"]) -> Float[Array, "d b n"]:
        """Normalises, scales and shifts."""
        normalized = standardize(x.astype(jnp.float32), self.epsilon)
        scaled = normalized * self.scale[:, None, None] + self.bias[:, None, None]
        return scaled.astype(self.dtype)


class Linear(nnx.Module):
    """`kernel.T @ x + bias` over the first axis; Glorot uniform kernel, zero bias, as in Keras."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        glorot = nnx.initializers.glorot_uniform()
        self.kernel = Kernel(glorot(rngs.params(), (inputs, outputs), param_dtype))
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "inputs *batch"]) -> Float[Array, "outputs *batch"]:
        """Maps the first axis."""
        columns = x.astype(self.dtype).reshape(len(x), -1)
        y = project(self.kernel[...].astype(self.dtype), columns) + self.bias[:, None]
        return y.astype(self.dtype).reshape(-1, *x.shape[1:])


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
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.projection = Linear(patch_size * patch_size * channels, embed_dim, **options)
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
    """Two layers of `Linear` with exact GELU between them and dropout after each."""

    def __init__(self, embed_dim: int, mlp_dim: int, *, dropout_rate: float = 0.0, **options: Any):
        self.hidden = Linear(embed_dim, mlp_dim, **options)
        self.out = Linear(mlp_dim, embed_dim, **options)
        self.dropout_rate = dropout_rate

    def __call__(
        self, x: Float[Array, "d b n"], *, rngs: Key[Array, "b 2"] | None = None
    ) -> Float[Array, "d b n"]:
        """Maps every token; `rngs`, two keys for each example, switch dropout on."""
        hidden = jax.nn.gelu(residual(self.hidden(x)), approximate=False)
        hidden = residual(dropout(hidden, self.dropout_rate, rngs_for(rngs, 0)))
        return dropout(self.out(hidden), self.dropout_rate, rngs_for(rngs, 1))
