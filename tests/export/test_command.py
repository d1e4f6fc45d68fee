"""`python -m eanet export`: a file that the other side has run, or none."""

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import eanet
from eanet import files
from eanet.errors import UserError
from eanet.export import command, stablehlo
from eanet.export.form import Form
from eanet.export.formats import FORMATS
from tests.inference.test_load import edit

ROOT = Path(__file__).parents[2]

for library in ("flatbuffers", "safetensors"):
    pytest.importorskip(library, reason="requirements-export.txt has it")


def export(run, format, *flags):
    command.main([str(run), f"--format={format}", *flags], "export")


@pytest.fixture
def images(model):
    return np.random.default_rng(1).integers(0, 256, (3, *model.image_shape), np.uint8)


@pytest.fixture
def loaded(model, monkeypatch):
    """The model is loaded, and has compiled what it answers with."""
    monkeypatch.setattr(command, "load", lambda *_, **__: model)


@pytest.mark.slow
def test_a_program_for_every_platform_answers_pixels_in_any_number(
    trained, model, images, tmp_path, loaded
):
    out = tmp_path / "new" / "digits.stablehlo"
    export(trained, "stablehlo", f"--out={out}")
    content = out.read_bytes()
    exported = jax.export.deserialize(bytearray(content))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    np.testing.assert_allclose(exported.call(images), model.predict(images), atol=1e-6)
    assert str(ROOT).encode() not in content and sys.prefix.encode() not in content
    record = files.read_record(out.with_name("digits.stablehlo.json"))
    assert record["num_images"] == 64 and record["images"] == "test split of digits"
    assert 0 <= record["largest_difference"] <= record["tolerance"] == 1e-5
    assert record["sha256_of_file"] == hashlib.sha256(content).hexdigest()
    assert record["class_names"] == list(model.class_names)
    assert record["input"] == "uint8[batch, 8, 8, 1], pixels from 0 to 255"
    assert record["output"] == "float32[batch, 10], probabilities"


def test_the_network_alone_in_batches_of_one_size(model):
    exported = jax.export.deserialize(bytearray(stablehlo.write(model, Form(batch=3, bare=True))))
    (images,), (logits,) = exported.in_avals, exported.out_avals
    assert (images.shape, images.dtype) == ((3, 8, 8, 1), np.float32)
    assert (logits.shape, logits.dtype) == ((3, 10), np.float32)


def test_an_export_is_exported_again(trained, model, images, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    export(trained, "safetensors", f"--out={first}")
    export(first, "safetensors", f"--out={second}")
    assert first.read_bytes() == second.read_bytes()
    np.testing.assert_array_equal(eanet.load(second).predict(images), model.predict(images))
    assert files.read_record(Path(f"{first}.json"))["largest_difference"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("format", ["stablehlo", "onnx", "safetensors"])
def test_a_run_in_bfloat16_becomes_programs_in_float32(copy, model, images, capsys, format):
    for library in FORMATS[format].libraries:
        pytest.importorskip(library, reason="requirements-export.txt has it")
    edit(copy, "model", dtype="bfloat16")
    export(copy, format)
    (record,) = (copy / "export").glob("*.json")
    assert files.read_record(record)["largest_difference"] <= 1e-5
    said = "written in float32, of a run that computes in bfloat16" in capsys.readouterr().out
    assert said == (format != "safetensors")
    if format == "stablehlo":
        exported = jax.export.deserialize(bytearray(record.with_suffix("").read_bytes()))
        np.testing.assert_allclose(exported.call(images), model.predict(images), atol=1e-6)


@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_what_the_other_side_computes_differently_is_not_left(
    trained, tmp_path, monkeypatch, factor, loaded
):
    format = FORMATS["safetensors"]

    def answer(path, model, batches):
        return [model.predict(images) * np.float32(factor) for images in batches]

    monkeypatch.setitem(FORMATS, "safetensors", dataclasses.replace(format, answer=answer))
    with pytest.raises(UserError, match=r"not compute what the model does.*1e-05; nothing"):
        export(trained, "safetensors", f"--out={tmp_path}/a.safetensors")
    assert not list(tmp_path.iterdir())


def test_without_the_data_it_is_checked_on_random_images(copy, capsys):
    edit(copy, "dataset", name="folder:/nonexistent")
    (copy / "model.json").write_text(
        json.dumps(json.loads((copy / "model.json").read_text()) | {"data": None, "sha256": None})
    )
    export(copy, "safetensors")
    assert "random images" in (said := capsys.readouterr()).out + said.err
    assert files.read_record(copy / "export/model.safetensors.json")["images"] == "random, seed 0"
    with pytest.raises(UserError, match="elsewhere"):
        export(copy, "safetensors", f"--out={copy}/b.safetensors", "--data_dir=/elsewhere")


def test_nothing_that_is_there_is_replaced(trained, tmp_path):
    out = tmp_path / "a.safetensors"
    for there in (out, Path(f"{out}.json")):
        there.write_bytes(b"precious")
        with pytest.raises(UserError, match="is there already"):
            export(trained, "safetensors", f"--out={out}")
        assert there.read_bytes() == b"precious"
        there.unlink()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--format=stablehlo", "--out=a.onnx"], r"end in \.stablehlo: a\.onnx"),
        (["--format=safetensors", "--batch=2"], "--batch is about programs"),
        (["--format=safetensors", "--bare"], "--bare is about programs"),
        (["--format=stablehlo", "--batch=0"], "--batch=0 must be a whole number from 1"),
        (["--format=torch"], "choose from"),
    ],
)
def test_what_cannot_be_asked_is_refused(trained, flags, told):
    with pytest.raises(UserError, match=told):
        command.main([str(trained), *flags], "export")


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_library_is_named_with_what_installs_it(trained, format, monkeypatch):
    pins = (ROOT / "requirements-export.txt").read_text()
    for library in FORMATS[format].libraries:
        assert re.search(rf"^{library}==", pins, re.M)
        with monkeypatch.context() as without:
            without.setitem(sys.modules, library, None)
            told = rf"{library} is not installed here: pip install -r requirements-export\.txt"
            with pytest.raises(UserError, match=told):
                export(trained, format)
