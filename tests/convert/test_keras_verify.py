"""What a user of Keras sees: the same function, and the same answers to the same images."""

import jax
import numpy as np
import pytest
from PIL import Image

import train
from eanet import config as config_lib
from eanet import load
from eanet.convert import keras_verify
from eanet.convert.keras_import import import_weights
from tests.helpers.keras_cases import SMALL, build, keras

OPTIONS = {
    "num_classes": 10,
    "image_shape": (16, 16, 3),
    "patch_size": 4,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 12,
    "head_dim": 16,
    "memory_size": 12,
    "mlp_dim": 96,
}


@pytest.fixture(autouse=True)
def ranks_as_in_keras():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
def test_the_command_compares_block_by_block(tmp_path, capsys, monkeypatch):
    path = tmp_path / "a.weights.h5"
    build(SMALL).save_weights(path)
    assert keras_verify.main([str(path)], "verify-keras") == 0
    said = capsys.readouterr().out
    assert "\nblocks/1        " in said and said.endswith("the same function\n")
    monkeypatch.setattr(keras_verify, "TOLERANCE", 0.0)
    assert keras_verify.main([str(path)], "verify-keras") == 1
    assert "different: relative by" in capsys.readouterr().out


def of_constants(images):
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Normalization(mean=0.4, variance=0.1)]
    return keras.Sequential(layers)


def adapted(images):
    normalization = keras.layers.Normalization()
    normalization.adapt(images[:40] / 255)
    return keras.Sequential([keras.layers.Rescaling(1 / 255), normalization])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preprocessing", "form"), [(of_constants, "model.keras"), (adapted, "model.h5")]
)
def test_a_folder_that_keras_labelled_is_answered_to_the_last_image(
    preprocessing, form, tmp_path, undrawn
):
    rng = np.random.default_rng(0)
    shades = rng.integers(1, 256, (300, 1, 1, 3))  # so that images differ
    images = (rng.random((300, 16, 16, 3)) * shades).astype(np.uint8)
    model = build(OPTIONS, activation="softmax", preprocessing=preprocessing(images))
    expected = np.asarray(model.predict(images.astype(np.float32), verbose=0))
    labels = np.argmax(expected, axis=1)
    assert len(set(labels)) > 2
    for index, label in enumerate(labels):
        folder = tmp_path / f"images/test/class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(folder / f"{index:03}.png")
    for label in range(10):  # of other images, whose statistics the run must not take
        folder = tmp_path / f"images/train/class{label}"
        folder.mkdir(parents=True)
        for index in range(2):
            Image.fromarray(images[index] // 4).save(folder / f"{index}.png")
    model.save(tmp_path / form)
    config = config_lib.load("configs/testing.py")
    config.dataset.name = f"folder:{tmp_path / 'images'}"
    import_weights(tmp_path / form, tmp_path / "run", config)
    np.testing.assert_allclose(load(tmp_path / "run").predict(images), expected, atol=1e-5)
    results = train.evaluate(tmp_path / "run")
    assert results["accuracy"] == 1.0 and results["num_examples"] == len(images)
