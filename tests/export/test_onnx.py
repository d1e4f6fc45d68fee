"""Programs of ONNX, run by ONNX Runtime, against the formulas in NumPy."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import pytest

from eanet.errors import UserError
from eanet.export import command, onnx_file
from eanet.export.form import Form
from eanet.files import read_record
from eanet.models.attention import NORMS
from eanet.models.attentions import ATTENTIONS
from eanet.models.pooling import POOLINGS, Mean
from eanet.models.self_attention import SelfAttention
from eanet.models.stems import STEMS, Patches
from eanet.training.run import build_model
from tests.helpers import reference

onnx = pytest.importorskip("onnx", reason="requirements-export.txt has it")
ort = pytest.importorskip("onnxruntime", reason="requirements-export.txt has it")


@pytest.fixture
def other(model):
    """A model of these options for images 8 × 12 × 3, all of whose parameters are random."""

    def make(**options):
        config = model.config.copy_and_resolve_references().unlock()
        config.model.update(options)
        names, mean, std = ("a", "b", "c"), (10.0, 100.0, 200.0), (50.0, 60.0, 70.0)
        record = dataclasses.replace(
            model.record, class_names=names, image_shape=(8, 12, 3), mean=mean, std=std
        )
        network = build_model(config, 3, (8, 12, 3))
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32),
            jax.eval_shape(network.init, np.uint32(0)),
        )
        return dataclasses.replace(
            model, config=config, record=record, params=params, network=network
        )

    return make


VARIANTS = {
    "the paper's": {},
    "plain": {"implementation": "plain", "norm": "softmax_tokens", "final_norm": True},
    "local": {"stem": "convolutions", "patch_size": 4, "local_mixing": True},
    "learned pooling": {"norm": "softmax_memory", "pooling": "attention"},
    "self": {"attention": "self", "patch_size": 4},
    "grouped": {"norm_groups": 2, "residual_scale": 0.5},
    "unnormalised": {"norm": "none"},
    "no attention": {"attention": "none"},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_program_computes_the_formulas(other, options):
    model = other(**options)
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 12, 3), np.uint8)
    if options.get("attention") == "none":
        attention = None
    elif options.get("attention") == "self":
        attention = partial(reference.self_attention, num_heads=model.config.model.num_heads)
    else:
        norm, groups = model.config.model.norm, model.config.model.norm_groups
        attention = partial(reference.external_attention, norm=norm, groups=groups)
    normalized = (images - np.float64(model.record.mean)) / np.float64(model.record.std)
    params = reference.to_float64(model.params)
    logits = reference.model(params, normalized, model.config.model.patch_size, attention)
    session = ort.InferenceSession(onnx_file.write(model, Form()))
    (probabilities,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(probabilities, reference.softmax(logits, 1), atol=1e-5)
    session = ort.InferenceSession(onnx_file.write(model, Form(batch=5, bare=True)))
    (found,) = session.run(["logits"], {"images": normalized.astype(np.float32)})
    np.testing.assert_allclose(found, logits, atol=1e-4)
    assert session.get_inputs()[0].shape == [5, 8, 12, 3]


def test_a_file_names_parameters_and_classes(other):
    model = other()
    program = onnx.load_from_string(onnx_file.write(model, Form()))
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in program.graph.initializer
    }
    np.testing.assert_array_equal(
        constants["blocks/1/attention/key_memory"],
        model.params["blocks"]["attention"]["key_memory"][1],
    )
    named = {entry.key: json.loads(entry.value) for entry in program.metadata_props}
    assert named == {
        "class_names": ["a", "b", "c"],
        "mean": [10, 100, 200],
        "std": [50, 60, 70],
        "resize": "squash",
    }


def test_what_is_left_was_run_in_batches_of_its_size(trained, model, tmp_path):
    out = tmp_path / "digits.onnx"
    command.main([str(trained), "--format=onnx", f"--out={out}", "--bare", "--batch=3"], "export")
    (images,) = ort.InferenceSession(out).get_inputs()
    assert (images.shape, images.type) == ([3, 8, 8, 1], "tensor(float)")
    record = read_record(out.with_name("digits.onnx.json"))
    assert record["output"] == "float32[3, 10], logits"
    assert 0 < record["largest_difference"] <= 1e-5


@pytest.mark.parametrize(
    ("table", "entry", "option"),
    [
        (STEMS, type("Other", (Patches,), {}), "stem"),
        (ATTENTIONS, {"fast": type("Other", (SelfAttention,), {})}, "attention"),
        (POOLINGS, type("Other", (Mean,), {}), "pooling"),
        (NORMS, lambda logits: logits, "norm"),
    ],
)
def test_a_part_that_is_not_known_is_refused_by_name(other, monkeypatch, table, entry, option):
    monkeypatch.setitem(table, "Other", entry)
    with pytest.raises(UserError, match=rf"model\.{option}.* Other"):
        onnx_file.write(other(**{option: "Other"}), Form())


def test_another_dtype_is_refused(other):
    with pytest.raises(UserError, match=r"model\.dtype=bfloat16"):
        onnx_file.write(other(dtype="bfloat16"), Form())
