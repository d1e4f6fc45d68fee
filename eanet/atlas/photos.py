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
from eanet.inference.model import Model
from eanet.inference.pixels import as_pixels

_DEFAULT = 4  # images of the split
_TOP = 3  # classes


@dataclass(frozen=True)
class Photo:
    """An image with what the model makes of it."""

    name: str
    pixels: UInt8[np.ndarray, "h w c"]
    true: str | None  # its class, where that is known
    predicted: list[tuple[str, float]]  # the likeliest classes, with probabilities
    # For each block attention over units [H, N, S], or rollout [1, N, 1].
    attention: list[Float[np.ndarray, "h n s"]]


def look_at(model: Model, paths: Sequence[str], examples: Split, *, units: bool) -> list[Photo]:
    """Photos of these files, or of a few images spread over the split where there are none.

    Raises:
      UserError: a file is no image.
    """
    if paths:
        pixels = as_pixels(list(paths), model.record)
        names, true = [Path(path).name for path in paths], [None] * len(paths)
    else:
        chosen = np.unique(np.arange(1, 2 * _DEFAULT, 2) * len(examples) // (2 * _DEFAULT))
        pixels = examples.images[chosen]
        names = [f"image {index:,}" for index in chosen]
        true = [model.class_names[label] for label in examples.labels[chosen]]

    def attention(module: Any, x: Array) -> list[Array]:
        maps = module.attention_maps(x)
        return maps if units else [jnp.mean(r, 1)[:, None, :, None] for r in rollout(maps)]

    maps, probabilities = model.compiled(attention)(pixels), model.predict(pixels)
    return [
        Photo(
            name,
            image,
            label,
            [(model.class_names[c], float(p[c])) for c in np.argsort(-p, kind="stable")[:_TOP]],
            [each[index] for each in maps],
        )
        for index, (name, image, label, p) in enumerate(
            zip(names, pixels, true, probabilities, strict=True)
        )
    ]
