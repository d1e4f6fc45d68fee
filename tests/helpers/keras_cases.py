"""Shapes of EANet, and Keras models of them with weights that no test could mistake."""

import os

import numpy as np
import pytest

from eanet.convert.keras_architecture import our_model
from eanet.convert.keras_files import read
from eanet.convert.keras_weights import infer, to_params

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
pytest.importorskip("h5py")
if keras.backend.backend() != "jax":
    pytest.skip("parity is measured against Keras on JAX", allow_module_level=True)

EXAMPLE = {
    "num_classes": 100,
    "image_shape": (32, 32, 3),
    "patch_size": 2,
    "embed_dim": 64,
    "depth": 8,
    "num_heads": 16,
    "head_dim": 16,
    "memory_size": 16,
    "mlp_dim": 64,
}
SMALL = EXAMPLE | {
    "num_classes": 10,
    "image_shape": (8, 8, 3),
    "embed_dim": 12,
    "depth": 2,
    "num_heads": 3,
    "head_dim": 4,
    "memory_size": 5,
    "mlp_dim": 20,
}
EXTERNAL = {
    "example": EXAMPLE,
    "patch 4": SMALL | {"patch_size": 4, "image_shape": (16, 16, 3)},
    "d 48, 4 heads of 12": SMALL | {"embed_dim": 48, "num_heads": 4, "head_dim": 12},
    "S 64, more than d": SMALL | {"memory_size": 64},
    "S = h = d, 1 head": SMALL | {"memory_size": 12, "num_heads": 1, "head_dim": 12},
    "4 blocks": SMALL | {"depth": 4},
    "1 block, 2 classes, grey": SMALL | {"depth": 1, "num_classes": 2, "image_shape": (8, 8, 1)},
    "not square": SMALL | {"image_shape": (8, 20, 3)},
}
SELF = {
    "example, key_dim d": EXAMPLE
    | {"attention": "self", "num_heads": 4, "head_dim": 64, "depth": 2},
    "key_dim d/heads": SMALL | {"attention": "self"},
    "key_dim d": SMALL | {"attention": "self", "head_dim": 12},
    "patch 4": SMALL | {"attention": "self", "patch_size": 4, "image_shape": (16, 16, 3)},
    "not square": SMALL | {"attention": "self", "image_shape": (8, 20, 3)},
}


def build(options: dict, *, seed: int = 0, vectors: bool = True, **more):
    """Keras' own initial weights; biases and norms, constant at first, are moved with `vectors`."""
    from eanet.convert.keras_model import build as build_keras

    keras.utils.set_random_seed(seed)
    model = build_keras(**options, **{"activation": None, "dropout_rate": 0.0} | more)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables if vectors else ():
        if variable.path.endswith(("bias", "beta", "gamma")):
            variable.assign(variable + rng.normal(scale=0.2, size=variable.shape))
    return model


def imported(model, path, options: dict):
    """What Keras saves, as our model and its parameters."""
    model.save_weights(path)
    height, width, channels = options["image_shape"]
    weights = read(path)
    architecture = infer(weights, image_size=(height, width), channels=channels)
    return our_model(architecture), to_params(weights, architecture), architecture
