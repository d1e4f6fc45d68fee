"""What a loaded model answers, and what it refuses to answer."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import eanet
from eanet import devices
from eanet.data.load import load_dataset
from eanet.errors import UserError
from eanet.inference import chunks
from tests.helpers import reference
from tests.inference.conftest import ROOT


@pytest.fixture(scope="module")
def model(trained):
    return eanet.load(trained)


@pytest.fixture(scope="module")
def examples(model):
    return load_dataset(**model.config.dataset, log=print).test


@pytest.fixture
def of_readme(trained, monkeypatch, tmp_path):
    """The scripts in README.md that load a model, to be executed in an empty directory."""
    (tmp_path / "runs").symlink_to(trained.parent)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if "eanet.load(" in block]


def test_the_three_lines_of_the_readme(of_readme, examples):
    names = {"images": examples.images}
    exec(of_readme[0], names)
    assert names["probabilities"].shape == (359, 10)


def test_the_script_of_the_readme_draws_the_attention_of_the_last_block(of_readme, model):
    names = {}
    exec(of_readme[1], names)
    attention = model.attention_maps(names["images"])[-1]
    expected = attention[3, :, 2, 5].mean()  # of 2 × 2 patches the third is the first of row 1
    assert names["maps"][3, 1, 0, 5] == pytest.approx(expected, rel=1e-6)
    axes = names["axes"]
    assert axes.shape == (4, 1 + 8) and axes[0, 8].get_title() == "unit 8"
    np.testing.assert_array_equal(axes[3, 6].images[0].get_array(), names["maps"][3, ..., 5])
    best = names["probabilities"][0].argmax()
    assert axes[0, 0].get_ylabel().startswith(f"{model.class_names[best]}, ")
    with Image.open("attention.png") as picture:
        assert picture.width > 1000
    names["plt"].close(names["figure"])


def test_it_says_what_it_is(model):
    assert model.class_names == tuple("0123456789")
    assert model.image_shape == (8, 8, 1) and model.step == 39
    assert model.config.model.embed_dim == 16
    assert repr(model) == ("<EANet of 3,098 parameters at step 39: images 8×8×1, 10 classes>")


def test_it_is_as_accurate_as_the_evaluation_says(model, trained, examples):
    right = model.predict(examples.images).argmax(1) == examples.labels
    results = json.loads((trained / "results_test.json").read_text())
    assert right.mean() == pytest.approx(results["accuracy"], abs=1e-7)


def test_answers_are_those_of_the_formulas(model, examples):
    images, params = examples.images[:5], reference.to_float64(model.params)
    normalized = (images.astype(np.float64) - model.mean) / model.std
    logits = reference.model(params, normalized, 4, reference.external_attention)
    np.testing.assert_allclose(model.predict(images), reference.softmax(logits, 1), atol=1e-6)

    features = model.features(images)
    from_features = reference.linear(params["head"], features.mean(1))
    np.testing.assert_allclose(from_features, logits, atol=1e-5)

    embed, first = params["patch_embed"], reference.blocks(params)[0]
    tokens = reference.linear(embed["projection"], reference.patches(normalized, 4))
    tokens = reference.layer_norm(first["attention_norm"], tokens + embed["position_embedding"])
    weights = reference.external_weights(first["attention"], tokens).swapaxes(1, 2)
    maps = model.attention_maps(images)
    assert len(maps) == 2
    np.testing.assert_allclose(maps[0], weights, atol=1e-6)


@pytest.mark.parametrize("method", ["predict", "features", "attention_maps"])
def test_any_number_of_images_has_the_answers_of_single_ones(model, examples, method):
    answer = getattr(model, method)
    singles = [jax.tree.leaves(answer(image[None])) for image in examples.images[:40]]
    every = [np.concatenate(parts) for parts in zip(*singles, strict=True)]
    for count in (0, 1, 15, 16, 17, 40):
        for part, whole in zip(
            jax.tree.leaves(answer(examples.images[:count])), every, strict=True
        ):
            assert part.dtype == np.float32 and part.shape == (count, *whole.shape[1:])
            np.testing.assert_allclose(part, whole[:count], atol=1e-6)


def test_one_program_answers_any_number_of_images(trained, examples):
    compiled = []

    def listen(event, _, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    model = eanet.load(trained)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for count in (1, 2, 17, 300):
            model.predict(examples.images[:count])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1


def test_memory_is_bounded_by_the_size_of_the_answers(monkeypatch):
    monkeypatch.setattr(chunks, "_MOST_BYTES", 3 * 4 * 100)
    seen = set()

    def function(params, images):
        seen.add(len(images))
        return params * jnp.tile(images.reshape(len(images), -1), 50)

    call = chunks.in_chunks(
        function, np.float32(2), devices.make_mesh(2), image_shape=(1, 2, 1), images_at_once=99
    )
    images = np.arange(40, dtype=np.float32).reshape(20, 1, 2, 1)
    np.testing.assert_array_equal(call(images), np.tile(2 * images.reshape(20, 2), 50))
    assert seen == {1, 3}  # one to see the shapes, and three on a device


@pytest.mark.parametrize(
    "convert",
    [
        np.float16,
        np.float32,
        np.float64,
        lambda images: images.astype(jnp.bfloat16),
        jnp.asarray,
        list,
        lambda images: [image.tolist() for image in images.astype(float)],
        lambda images: np.asfortranarray(images),
    ],
    ids=["float16", "float32", "float64", "bfloat16", "jax", "list", "lists", "fortran"],
)
def test_images_of_every_kind_have_the_answers_of_bytes(model, examples, convert):
    images = examples.images[:5] // 2 * 2  # even numbers are numbers of bfloat16 too
    np.testing.assert_allclose(model.predict(convert(images)), model.predict(images), atol=1e-6)


def test_black_images_are_images(model):
    black = model.predict(np.zeros((1, 8, 8, 1), np.uint8))
    np.testing.assert_array_equal(model.predict(np.zeros((1, 8, 8, 1))), black)


@pytest.mark.parametrize("method", ["predict", "features", "attention_maps"])
@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((8, 8, 1)), ["(8, 8, 1)", "images[None]"]),
        (np.zeros((5, 8, 8)), ["(5, 8, 8)", "images[..., None]"]),
        (np.zeros((5, 1, 8, 8)), ["transpose(0, 2, 3, 1)"]),
        (np.zeros((5, 8, 8, 3)), ["(5, 8, 8, 3)", "[B, 8, 8, 1]"]),
        (np.zeros((5, 9, 9, 1)), ["(5, 9, 9, 1)", "[B, 8, 8, 1]"]),
        (np.zeros((2, 5, 8, 8, 1)), ["(2, 5, 8, 8, 1)"]),
        (np.zeros(()), ["()"]),
        (np.full((1, 8, 8, 1), 0.5), ["0.5", "255 * images"]),
        (np.full((1, 8, 8, 1), 1.0), ["255 * images"]),
        (np.full((1, 8, 8, 1), -0.5), ["-0.5", "normalises them itself"]),
        (np.full((1, 8, 8, 1), 256.0), ["256", "0 to 255"]),
        (np.full((1, 8, 8, 1), np.nan), ["nan"]),
        (np.full((1, 8, 8, 1), np.inf), ["inf"]),
        (np.full((1, 8, 8, 1), 7, np.int64), ["int64", "uint8"]),
        (np.full((1, 8, 8, 1), 7, np.uint16), ["uint16"]),
        (np.full((1, 8, 8, 1), True), ["bool"]),
        (np.full((1, 8, 8, 1), 1j), ["complex"]),
        (np.full((1, 8, 8, 1), None), ["object"]),
        ([np.zeros((8, 8, 1)), np.zeros((9, 8, 1))], ["one array"]),
        ("photo.png", ["photo.png cannot be read as an image: No such file"]),
        (["photo.png", 3], ["(2,)"]),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_in_one_line(model, method, images, told):
    with pytest.raises(UserError) as refusal:
        getattr(model, method)(images)
    message = str(refusal.value)
    assert "\n" not in message and all(part in message for part in told), message
