"""Single images through the model: what it predicts, and what its attention is on each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from eanet.atlas.measure import rollout
from eanet.data.base import Split
from eanet.errors import UserError
from eanet.inference.model import Model
from eanet.inference.pixels import as_pixels
from eanet.models.attention import ExternalAttention
from eanet.models.self_attention import SelfAttention

_DEFAULT = 4  # images of a split


@dataclass(frozen=True)
class Photo:
    """An image with what the model makes of it."""

    name: str
    pixels: UInt8[np.ndarray, "h w c"]
    true: str | None  # its class, where that is known
    predicted: list[tuple[str, float]]  # the likeliest classes, with probabilities
    # For each block attention over units [H, N, S], or rollout [1, N, 1].
    attention: list[Float[np.ndarray, "h n s"]]


class Viewer:
    """Looks at images with a model, by programs that are compiled once."""

    def __init__(self, model: Model, *, top: int = 3):
        """Of each image the `top` likeliest classes are named.

        Raises `UserError` where the attention is of a kind that cannot be shown.
        """
        self.units = _has_units(model)  # else there is attention rollout
        self._model, self._top = model, top

        def attention(module: Any, x: Array) -> list[Array]:
            maps = module.attention_maps(x)
            return maps if self.units else [jnp.mean(r, 1)[:, None, :, None] for r in rollout(maps)]

        self._attention = model.compiled(attention)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width, _ = self._model.image_shape
        patch = self._model.config.model.patch_size
        return height // patch, width // patch

    def files(self, paths: Sequence[str]) -> list[Photo]:
        """Photos of these files; raises `UserError` where one is no image."""
        pixels = as_pixels(list(paths), self._model.record)
        return self._photos([Path(path).name for path in paths], pixels, [None] * len(paths))

    def spread(self, examples: Split) -> list[Photo]:
        """Photos of a few images spread over the split."""
        chosen = np.unique(np.arange(1, 2 * _DEFAULT, 2) * len(examples) // (2 * _DEFAULT))
        names = [f"image {index:,}" for index in chosen]
        true = [self._model.class_names[label] for label in examples.labels[chosen]]
        return self._photos(names, examples.images[chosen], true)

    def _photos(
        self, names: Sequence[str], pixels: np.ndarray, true: Sequence[str | None]
    ) -> list[Photo]:
        maps, probabilities = self._attention(pixels), self._model.predict(pixels)
        class_names = self._model.class_names
        return [
            Photo(
                name,
                image,
                label,
                [(class_names[c], float(p[c])) for c in np.argsort(-p, kind="stable")[: self._top]],
                [each[index] for each in maps],
            )
            for index, (name, image, label, p) in enumerate(
                zip(names, pixels, true, probabilities, strict=True)
            )
        ]


def _has_units(model: Model) -> bool:
    attention = model.network.abstract.blocks.attention
    if isinstance(attention, ExternalAttention):
        if attention.norm == "none":
            raise UserError("with model.norm='none' no unit has a share of the attention to show")
        return True
    if isinstance(attention, SelfAttention):
        return False
    raise UserError(
        f"the attention {model.config.model.attention!r} has no units and no rollout to be shown: "
        'only "external" and "self" have'
    )
