"""Compares the model with Keras' own, block by block, for the weights of one file.

The source is as for `import-keras`; images are normally distributed. Keras 3 on its JAX backend is
needed for this, and for nothing else in this project. Exit code 0: the same function; 1: not.
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eanet.cli import Parser, say
from eanet.convert import keras_files
from eanet.convert.keras_architecture import Architecture, our_model
from eanet.convert.keras_import import add_source
from eanet.convert.keras_weights import infer, to_keras, to_params
from eanet.errors import UserError

# Rounding alone stays well below this, in units of the largest value.
TOLERANCE = 1e-4

_IMAGES = 4


def main(arguments: list[str], prog: str) -> int:
    """The command `verify-keras`: differences, also relative to the largest value in Keras there.

    Raises:
      UserError: Keras is not installed, or the file cannot be imported.
    """
    parser = Parser(prog, __doc__)
    add_source(parser)
    options = parser.parse_args(arguments)
    weights = keras_files.read(options.source)
    architecture = infer(weights, image_size=options.image_size, channels=options.channels)
    params = to_params(weights, architecture)
    images = np.random.default_rng(0).normal(size=(_IMAGES, *architecture.image_shape))
    images = images.astype(np.float32)
    theirs = _keras_outputs(options.source, architecture, params, images)
    say(f"{weights.source}: {architecture}")
    say(f"{'after':<16}{'largest value':>15}{'absolute':>12}{'relative':>12}")
    worst = 0.0
    model = our_model(architecture).merge(jax.tree.map(jnp.asarray, params))
    inputs = jnp.asarray(images)
    names, ours = (*model.stage_names, "head"), [*model.stages(inputs), model(inputs)]
    for name, actual, expected in zip(names, map(np.asarray, ours), theirs, strict=True):
        scale, absolute = np.max(np.abs(expected)), np.max(np.abs(actual - expected))
        worst = max(worst, absolute / scale)
        say(f"{name:<16}{scale:>15.4g}{absolute:>12.2e}{absolute / scale:>12.2e}")
    agree = worst <= TOLERANCE
    say("the same function" if agree else f"different: relative by {worst:.2e}")
    return 0 if agree else 1


def _keras_outputs(
    source: str, architecture: Architecture, params: Any, images: np.ndarray
) -> list[np.ndarray]:
    """Tokens after the patch embedding and after every block, then the logits.

    Keras reads the file itself where it is in a form of Keras 3.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError:
        raise UserError("this compares with Keras: pip install keras==3.15.1") from None
    from eanet.convert.keras_model import build

    model = build(**dataclasses.asdict(architecture), dropout_rate=0.0, activation=None)
    if source.endswith((".weights.h5", ".keras")):
        model.load_weights(source)
    else:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "converted.weights.h5"
            path.write_bytes(keras_files.weights_h5(to_keras(params, architecture)))
            model.load_weights(path)
    # Every second sum ends a block.
    sums = [layer.output for layer in model.layers if isinstance(layer, keras.layers.Add)][1::2]
    embedding = next(layer for layer in model.layers if type(layer).__name__ == "PatchEmbedding")
    probe = keras.Model(model.input, [embedding.output, *sums, model.output])
    return [np.asarray(output) for output in probe(images)]
