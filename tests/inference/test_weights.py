"""A model in one file of safetensors: the same model, and nothing else is taken for one."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest

import eanet
from eanet.errors import UserError
from eanet.inference import weights
from eanet.workdir.model_record import DataRecord, SplitRecord

safetensors = pytest.importorskip("safetensors.numpy", reason="requirements-export.txt has it")


@pytest.fixture(scope="module")
def model(trained):
    return eanet.load(trained)


@pytest.fixture(scope="module")
def content(model):
    return weights.to_bytes(model)


@pytest.fixture
def file(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


@pytest.fixture
def changed(content, tmp_path):
    """Writes the file anew with other tensors, or with another description of the model."""

    def write(tensors=None, **described):
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        known = json.loads(header["__metadata__"]["eanet"]) | described
        path = tmp_path / "model.safetensors"
        tensors = safetensors.load(content) | (tensors or {})
        tensors = {name: value for name, value in tensors.items() if value is not None}
        path.write_bytes(safetensors.save(tensors, {"eanet": json.dumps(known)}))
        return path, known

    return write


def test_a_file_alone_is_the_model(file, model):
    images = np.random.default_rng(0).integers(0, 256, (5, *model.image_shape), np.uint8)
    loaded = eanet.load(file)
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, model.params)
    assert (loaded.record, loaded.step) == (model.record, model.step)
    assert loaded.config == model.config


def test_other_programs_find_the_parameters_by_name(content, model):
    tensors = safetensors.load(content)
    np.testing.assert_array_equal(
        tensors["blocks/attention/query_kernel"],
        model.params["blocks"]["attention"]["query_kernel"],
    )
    assert sum(value.size for value in tensors.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(model.params)
    )


def test_parameters_of_half_the_width_stay_as_they_are(model, tmp_path):
    config = model.config.copy_and_resolve_references().unlock()
    config.model.param_dtype = "bfloat16"
    halves = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16), model.params)
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights.to_bytes(dataclasses.replace(model, config=config, params=halves)))
    loaded = eanet.load(path)
    for ours, theirs in zip(*map(jax.tree.leaves, (loaded.params, halves)), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_places_of_this_machine_are_not_handed_on(model):
    config = model.config.copy_and_resolve_references().unlock()
    config.dataset.update({"name": "folder:/home/someone/flowers", "data_dir": "/home/someone"})
    config.init_from = "/home/someone/runs/first"
    splits = dict.fromkeys(("train", "val", "test"), SplitRecord(1, "0"))
    data = DataRecord("folder:/home/someone/flowers", "/home/someone/flowers", splits)
    record = dataclasses.replace(model.record, data=data)
    content = weights.to_bytes(dataclasses.replace(model, config=config, record=record))
    assert b"someone" not in content and b"folder:flowers" in content


def test_the_content_is_always_the_same(model, content):
    assert weights.to_bytes(model) == content


def test_only_the_checkpoint_in_it_can_be_asked_for(file):
    with pytest.raises(UserError, match="holds one checkpoint"):
        eanet.load(file, "latest")


BIAS = "head/bias"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({BIAS: None}, r"has no tensor head/bias, float32\[10\]"),
        ({BIAS: np.zeros(11, np.float32)}, r"head/bias is float32\[11\], and float32\[10\] in"),
        ({BIAS: np.zeros(10, np.float16)}, r"head/bias is float16\[10\], and float32\[10\] in"),
        ({BIAS: np.zeros(10, np.int32)}, "head/bias is of I32, and no parameter"),
        ({"\x1b[31m": np.zeros(1, np.float32)}, r"\\x1b\[31m is no parameter of the model"),
    ],
)
def test_tensors_of_another_model_are_refused_by_name(changed, tensors, told):
    path, _ = changed(tensors)
    with pytest.raises(UserError, match=told):
        eanet.load(path)


def with_model(known, **options):
    return {**known["config"], "model": known["config"]["model"] | options}


@pytest.mark.parametrize(
    ("describe", "told"),
    [
        (lambda known: {"format": 2}, "of format 2, which is newer"),
        (lambda known: {"config": None}, "is not the config of a run"),
        (
            lambda known: {"config": with_model(known, memory_size=4)},
            "key_memory is .*in the model",
        ),
        (
            lambda known: {"config": with_model(known, memory_size=0)},
            r"written by.*model\.memory_size=0",
        ),
        (
            lambda known: {"config": with_model(known, patch_size=3)},
            r"written by.*model\.patch_size=3",
        ),
        (lambda known: {"config": with_model(known, memroy=4)}, "'model.memroy'; did you mean"),
        (lambda known: {"model": []}, "does not describe a model"),
        (lambda known: {"model": known["model"] | {"std": [0.0]}}, "what std says cannot be"),
        (lambda known: {"model": known["model"] | {"class_names": ["0"]}}, "head/bias is"),
        (lambda known: {"step": True}, "step no number of steps"),
    ],
)
def test_an_impossible_description_is_refused(changed, describe, told):
    _, known = changed()
    path, _ = changed(**describe(known))
    with pytest.raises(UserError, match=told):
        eanet.load(path)


def test_a_description_of_a_giant_takes_no_memory(changed):
    _, known = changed()
    giant = {"embed_dim": 65_536, "mlp_dim": 65_536, "memory_size": 65_536, "depth": 1000}
    path, _ = changed(config=with_model(known, **giant))
    with pytest.raises(UserError, match=r"float32\[1000, .*65536"):
        eanet.load(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content[:8] + content[9:],
        lambda content: (2).to_bytes(8, "little") + b"{}",
        lambda content: b"PK" + content[2:],
    ],
)
def test_damage_is_one_line(file, content, damage):
    file.write_bytes(damage(content))
    with pytest.raises(UserError, match=r"damaged, truncated or no safetensors|only tensors"):
        eanet.load(file)


def test_tensors_of_another_program_are_no_model(file):
    file.write_bytes(safetensors.save({"w": np.zeros(3, np.float32)}, {"format": "pt"}))
    with pytest.raises(UserError, match="no model of this program"):
        eanet.load(file)


def test_without_the_library_one_line_names_the_requirements(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-export\.txt"):
        eanet.load(file)
