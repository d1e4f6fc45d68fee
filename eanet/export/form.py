"""What an exported program takes and gives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from eanet.inference.model import Model

Images = UInt8[np.ndarray, "b height width c"]


@dataclass(frozen=True)
class Form:
    """Images in, `uint8[B, H, W, C]`, and probabilities out, `float32[B, classes]`.

    Where it is `bare`, without what stands around the network: images in that are normalised by the
    model's mean and deviation, `float32[B, H, W, C]`, and logits out.
    """

    batch: int | None = None  # B; None for any number
    bare: bool = False

    @property
    def dtype(self) -> Any:
        """Of the images."""
        return np.dtype(np.float32 if self.bare else np.uint8)

    @property
    def input(self) -> str:
        """The scale of the images."""
        return "normalised by mean and std" if self.bare else "pixels from 0 to 255"

    @property
    def output(self) -> str:
        """The name of what comes out."""
        return "logits" if self.bare else "probabilities"

    def batches(self, model: Model, images: Images) -> Iterator[np.ndarray]:
        """The images as the program takes them, in batches of its size, the last one padded.

        Of a program that takes any number there are two sizes.
        """
        inputs = (images - model.mean) / model.std if self.bare else images
        if self.batch is None:
            yield from (some.astype(self.dtype) for some in (inputs[:1], inputs[1:]) if len(some))
            return
        for start in range(0, len(inputs), self.batch):
            some = inputs[start : start + self.batch]
            short = self.batch - len(some)
            yield np.pad(some, [(0, short), (0, 0), (0, 0), (0, 0)]).astype(self.dtype)

    def probabilities(
        self, answers: list[np.ndarray], count: int
    ) -> Float[np.ndarray, "b classes"]:
        """Of so many images, from the program's answers to `batches`."""
        values = np.concatenate(answers)[:count]
        if not self.bare:
            return values
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
