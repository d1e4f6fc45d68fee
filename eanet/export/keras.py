"""Weights of the Keras example's model, see `eanet.convert`."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from eanet.convert import keras_files
from eanet.convert.keras_architecture import Architecture, architecture_of
from eanet.convert.keras_weights import to_keras
from eanet.export.form import Form
from eanet.inference.model import Model


def write(model: Model, form: Form) -> bytes:
    """The content of a file; `UserError` for a model that is not of the Keras example's kind."""
    del form
    values = to_keras(model.params, _architecture(model))
    return keras_files.normalizing(values, model.record.mean, model.record.std)


def answer(path: Path, model: Model, batches: list[np.ndarray]) -> list[np.ndarray]:
    """What the example's model of these sizes answers in Keras, with the weights of a file."""
    os.environ["KERAS_BACKEND"] = "jax"  # another may not be installed
    from eanet.convert import keras_model

    sizes = dataclasses.asdict(_architecture(model))
    built = keras_model.build(**sizes, preprocessing=keras_model.augmentation())
    built.load_weights(path)
    images = np.concatenate(batches)
    return [built.predict(images, batch_size=len(images), verbose=0)]


def _architecture(model: Model) -> Architecture:
    return architecture_of(model.config.model, len(model.class_names), model.image_shape)
