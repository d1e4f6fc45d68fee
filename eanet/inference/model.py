"""A trained model: its parameters with all that they need to answer images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from eanet import devices, precision
from eanet.inference.chunks import in_chunks
from eanet.inference.pixels import as_pixels
from eanet.models import costs
from eanet.models.functional import SplitModel
from eanet.training.batches import normalizer
from eanet.workdir.model_record import ModelRecord


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A trained model, see `eanet.load`.

    Images are `uint8[B, H, W, C]`, or floats of that shape **on the same scale 0..255**; the model
    normalises them itself. Floats from 0 to 1, or below 0 or above 255, are refused: on another
    scale every answer would be wrong. So every method raises `UserError` for other images. B is any
    number, 0 too: images are taken through the model a few at a time, by one compiled program for
    each method, and results are arrays of NumPy.

    In place of arrays there may be paths, one or a list: the files are decoded as those of a data
    set, and resized like these where they have another size. One that cannot be read raises
    `UserError`.
    """

    config: ConfigDict  # of the run
    record: ModelRecord  # class names, image shape, mean and deviation
    step: int  # of the checkpoint
    params: Any  # a nested dict of arrays: the moving average where the run has one
    network: SplitModel  # the functions that take them
    _compiled: dict[str, Callable[[np.ndarray], Any]] = dataclasses.field(
        default_factory=dict, init=False, compare=False
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.record.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.record.image_shape

    @property
    def mean(self) -> Float[np.ndarray, "c"]:
        """Of the training images, on the scale 0..255."""
        return self.record.statistics[0]

    @property
    def std(self) -> Float[np.ndarray, "c"]:
        """Their standard deviation, likewise."""
        return self.record.statistics[1]

    def predict(self, images: Any) -> Float[np.ndarray, "b classes"]:
        """The probability of every class for every image."""
        return self._answer("predict", images, lambda module, x: jax.nn.softmax(module(x)))

    def features(self, images: Any) -> Float[np.ndarray, "b n d"]:
        """The tokens of every image that the head takes the mean of; `.mean(1)` is that mean."""
        return self._answer(
            "features", images, lambda module, x: module.features(x).astype("float32")
        )

    def attention_maps(self, images: Any) -> list[Float[np.ndarray, "b heads n units"]]:
        """The normalised attention of each block: over memory units, or tokens for "self".

        The N tokens are patches of `config.model.patch_size` pixels, row by row. The result is
        large: `heads · N · units` floats for an image and block. Raises `UserError` also where the
        attention has no maps.
        """
        return self._answer("attention_maps", images, lambda module, x: module.attention_maps(x))

    def compiled(self, of: Callable[[Any, Any], Any]) -> Callable[[np.ndarray], Any]:
        """`call(images)` for what `of(module, normalised images)` gives, see `in_chunks`.

        `of` maps the network and `float32[b, H, W, C]` to a tree of arrays `[b, ...]`.
        """
        normalize, merge = normalizer(self.mean, self.std), self.network.merge
        mesh = devices.make_mesh(jax.local_device_count())

        def answer(params: Any, images: Any) -> Any:
            return of(merge(params), normalize(images))

        return in_chunks(
            precision.at(self.config.matmul_precision, answer),
            self.params,
            mesh,
            image_shape=self.image_shape,
            images_at_once=costs.images_at_once(self.network.abstract, mesh, training=False),
        )

    def _answer(self, name: str, images: Any, of: Callable[[Any, Any], Any]) -> Any:
        if name not in self._compiled:
            self._compiled[name] = self.compiled(of)
        return self._compiled[name](as_pixels(images, self.record))

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        return (
            f"<EANet of {costs.count_parameters(self.params):,} parameters at step {self.step:,}: "
            f"images {height}×{width}×{channels}, {len(self.class_names)} classes>"
        )
