"""Whether the other side computes what the model does."""

from pathlib import Path

import jax
import numpy as np

from eanet.display.console import Console
from eanet.errors import UserError
from eanet.export.form import Form, Images
from eanet.export.formats import Format
from eanet.inference.examples import load_examples
from eanet.inference.model import Model

TOLERANCE = 1e-5  # in a probability

_IMAGES = 64


def images_for(
    model: Model, dataset: str | None, data_dir: str | None, console: Console
) -> tuple[Images, str]:
    """The first images of the test split, or random ones where there is none; and which they are.

    Raises:
      UserError: the data was asked for and cannot be had.
    """
    try:
        examples = load_examples(
            model, "test", dataset=dataset, data_dir=data_dir, log=console.note
        )
    except UserError as error:
        if dataset is not None or data_dir is not None:
            raise
        console.warn(f"checked on random images, for there is no test split: {error}")
        shape = (_IMAGES, *model.image_shape)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8), "random, seed 0"
    images = np.asarray(examples.split.images[:_IMAGES])
    return images, f"test split of {examples.other or model.config.dataset.name}"


def largest_difference(
    model: Model, file: Path, format: Format, form: Form, images: Images
) -> float:
    """Of a probability, between the model and what runs the file; NaN if anything is NaN."""
    with jax.default_matmul_precision("highest"):  # float32 on an accelerator too
        expected = model.predict(images)
    answers = format.answer(file, model, list(form.batches(model, images)))
    found = form.probabilities(answers, len(images))
    return float(np.max(np.abs(found - expected)))
