"""Keras' files in, Keras' files out; and what is refused, with which words."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest

from eanet import cli, config_history
from eanet import config as config_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.convert import keras_config, keras_files, keras_import
from eanet.convert.keras_architecture import architecture_of
from eanet.convert.keras_files import weights_h5
from eanet.convert.keras_import import import_weights
from eanet.convert.keras_weights import infer, to_keras, to_params
from eanet.data.load import load_dataset
from eanet.errors import UserError
from eanet.export import keras
from eanet.export.form import Form
from eanet.inference.load import load
from eanet.models import attentions
from eanet.models.attention_fast import FastExternalAttention
from eanet.rules import Number
from eanet.workdir import model_record
from tests.helpers.keras_fakes import (
    SMALL,
    h5py,
    keras3_values,
    legacy_h5,
    tensorflow_trackables,
    write_keras_archive,
)

ROOT = Path(__file__).parents[2]
ATTENTIONS = pytest.mark.parametrize("attention", ["external", "self"])


def write(path, values):
    path.write_bytes(weights_h5(values))
    return path


def export(run, path):
    path.write_bytes(keras.write(load(run), Form()))


def read_params(path, **flags):
    weights = keras_files.read(path)
    architecture = infer(weights, **flags)
    return to_params(weights, architecture), architecture


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@ATTENTIONS
def test_sizes_are_inferred_and_values_go_to_their_places(tmp_path, attention):
    values = keras3_values(attention)
    params, found = read_params(write(tmp_path / "a.weights.h5", values))
    expected = SMALL | ({"memory_size": 0} if attention == "self" else {})
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.attention == attention
    block = jax.tree.map(lambda leaf: leaf[1], params["blocks"])
    np.testing.assert_array_equal(
        block["mlp_norm"]["scale"], values["layer_normalization_3/vars/0"]
    )
    if attention == "external":
        np.testing.assert_array_equal(block["attention"]["value_memory"], values["dense_8/vars/0"])
        # Keras joins the heads after each other: head 1 has columns h to 2h.
        h = SMALL["head_dim"]
        np.testing.assert_array_equal(
            block["attention"]["query_kernel"][:, 1], values["dense_6/vars/0"][:, h : 2 * h]
        )
    assert_equal(to_keras(params, found), {n: v for n, v in values.items() if "sequ" not in n})


@ATTENTIONS
def test_all_forms_hold_the_same(tmp_path, attention):
    values = keras3_values(attention)
    expected, _ = read_params(write(tmp_path / "a.weights.h5", values))
    archive = write_keras_archive(tmp_path / "a.keras", values)
    legacy = legacy_h5(tmp_path / "a.h5", values, attention)
    for path in (archive, legacy):
        params, architecture = read_params(path)
        assert_equal(params, expected)
        assert architecture.image_shape == SMALL["image_shape"]


def test_layers_are_ordered_by_number_not_by_letter(tmp_path):
    values = keras3_values("external", depth=3)  # dense_10 to dense_18
    params, _ = read_params(write(tmp_path / "a.weights.h5", values))
    np.testing.assert_array_equal(params["head"]["kernel"], values["dense_18/vars/0"])
    legacy, _ = read_params(legacy_h5(tmp_path / "a.h5", values, "external", first_dense=57))
    assert_equal(legacy, params)


def without_normalization(values):
    return {name: value for name, value in values.items() if "/normalization/vars" not in name}


def test_asks_for_what_shapes_do_not_tell(tmp_path):
    values = without_normalization(keras3_values("external", image_shape=(4, 6, 1)))
    path = write(tmp_path / "a.weights.h5", values)
    with pytest.raises(UserError, match=r"patch_embedding/proj.* 4 rows.*--channels=1 .* or 4"):
        read_params(path)
    with pytest.raises(UserError, match=r"pos_embed.* 6 tokens.*--image_size=HEIGHTxWIDTH"):
        read_params(path, channels=1)
    with pytest.raises(UserError, match=r"6 tokens, but images of 4x4 have 4 patches"):
        read_params(path, channels=1, image_size=(4, 4))
    _, architecture = read_params(path, channels=1, image_size=(4, 6))
    assert architecture.image_shape == (4, 6, 1)


MISMATCHES = {
    "dense_2/vars/0": ((4, 3), r"layers/dense_2/vars/0 has the shape \[4, 3\], but blocks/0/atten"),
    "layer_normalization_3/vars/1": ((9,), r"layer_normalization_3/vars/1 .* blocks/1/mlp_norm/bi"),
    "patch_embedding/pos_embed/vars/0": ((16, 9), r"pos_embed.*embed_dim=12"),
    "dense_12/vars/1": ((11,), r"dense_12/vars/1 .*head/bias.*num_classes=10"),
    "dense_5/vars/1": (None, r"layers/dense_5/vars/1 is missing, which is blocks/0/mlp/out/bias"),
    "conv2d/vars/0": ((3, 3, 3, 8), r"conv2d/vars/0, of shape \[3, 3, 3, 8\], is no part"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_names_the_first_tensor_that_does_not_fit(tmp_path, name):
    shape, message = MISMATCHES[name]
    values = keras3_values("external")
    if shape is None:
        del values[name]
    else:
        values[name] = np.zeros(shape, np.float32)
    with pytest.raises(UserError, match=message):
        read_params(write(tmp_path / "a.weights.h5", values))


def test_refuses_values_that_are_not_finite(tmp_path):
    values = keras3_values("external")
    values["dense_7/vars/0"][1, 1] = np.nan
    with pytest.raises(UserError, match=r"dense_7/vars/0 has values that are not finite"):
        keras_files.read(write(tmp_path / "a.weights.h5", values))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("form", ["a.weights.h5", "a.keras"])
def test_a_truncated_file_is_named(tmp_path, form, share):
    values = keras3_values("external")
    whole = write(tmp_path / "whole", values)
    if form.endswith(".keras"):
        whole = write_keras_archive(tmp_path / "whole", values)
    content = whole.read_bytes()
    path = tmp_path / form
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=f"{form}.*(damaged|truncated|no HDF5)"):
        keras_files.read(path)


def test_a_flipped_bit_in_an_archive_is_found(tmp_path):
    path = write_keras_archive(tmp_path / "a.keras", keras3_values("external"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        keras_files.read(path)


def test_links_out_of_a_file_are_not_followed(tmp_path):
    other = write(tmp_path / "other.h5", keras3_values("external"))
    for link in (h5py.ExternalLink(str(other), "/layers"), h5py.SoftLink("/somewhere")):
        path = tmp_path / "a.weights.h5"
        with h5py.File(path, "w") as file:
            file["layers"] = link
        with pytest.raises(UserError, match="layers is missing or a link"):
            keras_files.read(path)


def test_a_claimed_size_is_not_believed(tmp_path):
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
    with pytest.raises(UserError, match=r"layers/dense/vars/0 claims the shape"):
        keras_files.read(path)


def test_nothing_of_a_config_is_built(tmp_path):
    content = weights_h5(keras3_values("external"))
    path = tmp_path / "a.keras"
    trap = {"class_name": "Lambda", "module": "os", "config": {"function": "system"}}
    for config in (json.dumps({"config": {"layers": [trap]}}), "[" * 100_000, "not json"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("model.weights.h5", content)
        assert keras_files.read(path).image_shape is None


@pytest.fixture
def digits_config():
    config = config_lib.load(str(ROOT / "configs/eanet_cifar100.py"))
    config.dataset.name = "digits"
    return config


@ATTENTIONS
def test_round_trip_is_exact(tmp_path, digits_config, attention, monkeypatch):
    values = keras3_values(attention, image_shape=(8, 8, 1))
    source = write(tmp_path / "in.weights.h5", values)
    lines = []
    import_weights(source, tmp_path / "run", digits_config, log=lines.append)
    assert any("normalisation: mean" in line for line in lines)
    std = np.sqrt(values["sequential/layers/normalization/vars/1"])
    np.testing.assert_allclose(model_record.read(tmp_path / "run").std, std, rtol=1e-6)
    export(tmp_path / "run", tmp_path / "out.weights.h5")
    with h5py.File(tmp_path / "out.weights.h5") as file:
        for name, value in values.items():
            np.testing.assert_array_equal(file[f"layers/{name}"][()], value, err_msg=name)


def test_without_normalization_the_export_has_that_of_the_data(tmp_path, digits_config):
    values = without_normalization(keras3_values("external", image_shape=(8, 8, 1)))
    source = write(tmp_path / "in.weights.h5", values)
    import_weights(source, tmp_path / "run", digits_config, channels=1, log=lambda line: None)
    export(tmp_path / "run", tmp_path / "out.weights.h5")
    dataset = load_dataset("digits")
    weights = keras_files.read(tmp_path / "out.weights.h5")
    np.testing.assert_array_equal(weights.statistics[0].astype(np.float32), dataset.mean)
    np.testing.assert_allclose(weights.statistics[1], dataset.std, rtol=1e-6)


def test_a_taken_workdir_and_another_data_set_are_refused(tmp_path, digits_config):
    run = tmp_path / "run"
    wrong = write(tmp_path / "wrong.weights.h5", keras3_values("external"))
    with pytest.raises(UserError, match="8x8x3 and 10 classes, but digits has 8x8x1 and 10"):
        import_weights(wrong, run, digits_config)
    assert not run.exists()
    right = write(tmp_path / "a.weights.h5", keras3_values("external", image_shape=(8, 8, 1)))
    import_weights(right, run, digits_config, log=lambda line: None)
    with pytest.raises(UserError, match="holds a run already"):
        import_weights(right, run, digits_config, log=lambda line: None)
    assert Checkpoints(run / "checkpoints").steps() == [0]


HALF = {"mean": [127.5], "variance": [16256.25]}
LAYERS = {
    "of constants": ([("Normalization", HALF)], 127.5, 127.5),
    "to 0..1": ([("Rescaling", {"scale": 1 / 255, "offset": 0.0})], 0.0, 255.0),
    "to -1..1": ([("Rescaling", {"scale": 1 / 127.5, "offset": -1})], 127.5, 127.5),
    "one after the other": (
        [("Rescaling", {"scale": 1 / 255}), ("Normalization", {"mean": 0.5, "variance": 0.25})],
        127.5,
        127.5,
    ),
    "adapted, after another": ([("Rescaling", {"scale": 0.5}), ("Normalization", {})], 6.0, 4.0),
    "undone": ([("Normalization", HALF), ("Normalization", HALF | {"invert": True})], 0.0, 1.0),
}


@pytest.mark.parametrize(("layers", "mean", "std"), LAYERS.values(), ids=LAYERS)
def test_layers_of_a_config_say_how_images_are_normalised(layers, mean, std):
    inner = [{"class_name": kind, "config": options} for kind, options in layers]
    outer = [
        {"class_name": "InputLayer", "config": {"batch_shape": [None, 8, 8, 3]}},
        {"class_name": "Sequential", "config": {"layers": inner}},
        {"class_name": "Dense", "config": {}},
    ]
    found = keras_config.layers(json.dumps({"config": {"layers": outer}}))
    adapted = (np.full(3, 3.0), np.full(3, 4.0)) if ("Normalization", {}) in layers else None
    of_mean, of_std = keras_config.statistics("file", found, adapted)
    np.testing.assert_allclose(of_mean, [mean] * 3, atol=1e-9)
    np.testing.assert_allclose(of_std, [std] * 3)


@pytest.mark.parametrize(
    "options",
    [{"scale": "1/255"}, {"scale": 0}, {"scale": -1}, {"scale": 10**400}, {"offset": 1}],
)
def test_layers_that_normalise_by_no_number_are_refused(options):
    with pytest.raises(UserError, match="file: its layer"):
        keras_config.statistics("file", [("Rescaling", options)], None)


def test_without_normalization_the_asked_one_is_recorded(tmp_path, digits_config):
    values = without_normalization(keras3_values("external", image_shape=(8, 8, 1)))
    source = write(tmp_path / "in.weights.h5", values)
    asked = {"mean": [4.0], "std": [5.0], "channels": 1, "log": lambda line: None}
    import_weights(source, tmp_path / "run", digits_config, **asked)
    record = model_record.read(tmp_path / "run")
    assert (record.mean, record.std) == ((4.0,), (5.0,))
    assert record.class_names == load_dataset("digits").class_names
    for wrong in ({"std": [0.0]}, {"std": [1.0, 2.0]}, {"mean": [np.nan]}):
        with pytest.raises(UserError, match="eviation"):
            import_weights(source, tmp_path / "other", digits_config, **asked | wrong)
    assert not (tmp_path / "other").exists()


def test_a_data_set_that_cannot_be_loaded_is_needed_for_what_the_file_lacks(
    tmp_path, digits_config
):
    digits_config.dataset.name = f"folder:{tmp_path / 'missing'}"
    values = keras3_values("external", image_shape=(8, 8, 1))
    source = write(tmp_path / "without.weights.h5", without_normalization(values))
    options = {"channels": 1, "log": lambda line: None}
    with pytest.raises(UserError, match="give --mean and --std"):
        import_weights(source, tmp_path / "run", digits_config, **options)
    source = write(tmp_path / "with.weights.h5", values)
    import_weights(source, tmp_path / "run", digits_config, **options)
    assert model_record.read(tmp_path / "run").class_names == tuple("0123456789")


class Sharper(FastExternalAttention):
    """A made-up attention, or external attention of tomorrow."""

    RULES: ClassVar[dict] = FastExternalAttention.RULES | {"sharpness": Number(0, 10)}

    def __init__(self, *sizes, sharpness=1.0, **options):
        super().__init__(*sizes, **options)


def imported(tmp_path, config, **model):
    """A run of digits, with other values in its config afterwards."""
    values = keras3_values("external", image_shape=(8, 8, 1))
    source = write(tmp_path / "in.weights.h5", values)
    import_weights(source, tmp_path / "run", config, log=lambda line: None)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    saved["model"] |= model
    (tmp_path / "run/run.json").unlink()
    (tmp_path / "run/config.json").write_text(json.dumps(saved))
    return tmp_path / "run"


def test_a_key_of_tomorrow_is_not_exported_but_as_it_was_before(
    tmp_path, digits_config, monkeypatch
):
    monkeypatch.setitem(attentions.ATTENTIONS, "external", {"fast": Sharper})
    monkeypatch.setitem(config_history.ADDED, "9.0.0", {"model.sharpness": 1.0})
    run = imported(tmp_path, digits_config, sharpness=2.0)
    out = tmp_path / "out.weights.h5"
    with pytest.raises(UserError, match=r"cannot express model\.sharpness=2\.0, only 1\.0"):
        export(run, out)
    assert not out.exists()
    saved = (run / "config.json").read_text().replace("2.0", "1.0")
    (run / "config.json").write_text(saved)
    export(run, out)
    assert out.exists()


@pytest.mark.parametrize("key", ["norm", "final_norm", "attention"])
def test_what_the_example_cannot_be_is_refused_by_name(key, digits_config, monkeypatch):
    monkeypatch.setitem(attentions.ATTENTIONS, "toy", {"fast": Sharper})
    model = digits_config.model.to_dict() | {"sharpness": 1.0}
    architecture_of(model, 10, (8, 8, 1))  # an option of another attention
    model |= {"norm": "softmax_tokens", "final_norm": True, "attention": "toy"}
    wanted = digits_config.model.to_dict() | {key: model[key]}
    with pytest.raises(UserError, match=rf"cannot express model\.{key}="):
        architecture_of(wanted, 10, (8, 8, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.h5", "--workdir=w"], "missing.h5"),
        ([__file__, "--workdir=w"], "damaged"),
        (["a.h5"], "--workdir"),
        (["a.h5", "--workdir=w", "--image_size=8"], "32x48, not '8'"),
        (["a.h5", "--workdir=w", "--std=1;2"], "--std: numbers"),
    ],
)
def test_the_command_answers_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        keras_import.main(arguments, "import-keras")


def test_without_a_checkout_a_config_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "eanet" / "cli.py"))
    with pytest.raises(UserError, match=r"configs/eanet_cifar100\.py.*give --config=FILE"):
        keras_import.main(["a.h5", "--workdir=w"], "import-keras")


@pytest.mark.slow
def test_main_evaluates_what_was_imported(tmp_path):
    values = keras3_values("external", image_shape=(8, 8, 1))
    source = write(tmp_path / "a.weights.h5", values)
    run = tmp_path / "run"
    for command in (
        ["-m", "eanet", "import-keras", str(source), f"--workdir={run}", "--dataset=digits"],
        ["main.py", "--mode=eval", f"--workdir={run}", "--nohost_setup"],
    ):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    results = json.loads((run / "results_test.json").read_text())
    assert results["step"] == 0 and results["num_examples"] == len(load_dataset("digits").test)


@ATTENTIONS
def test_tensorflow_forms(tmp_path, attention):
    """With the names that a checkpoint and a SavedModel of Keras 2 have."""
    tf = pytest.importorskip("tensorflow")
    values = keras3_values(attention)
    expected, _ = read_params(write(tmp_path / "a.weights.h5", values))
    layers, ordered = tensorflow_trackables(tf, values, attention)
    tf.train.Checkpoint(**layers).write(str(tmp_path / "checkpoint" / "weights"))
    tf.train.Checkpoint(variables=ordered).write(str(tmp_path / "saved/variables/variables"))
    for path in (tmp_path / "checkpoint", tmp_path / "checkpoint/weights", tmp_path / "saved"):
        params, _ = read_params(path)
        assert_equal(params, expected)
    data_file = next((tmp_path / "checkpoint").glob("*.data*"))
    os.truncate(data_file, 100)
    with pytest.raises(UserError, match=r"checkpoint: .* is damaged or truncated"):
        keras_files.read(tmp_path / "checkpoint")
