"""Weights for Keras, run by Keras."""

import dataclasses
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from eanet.__main__ import call
from eanet.convert import keras_files
from eanet.errors import UserError
from eanet.export import command, keras
from eanet.export.form import Form
from eanet.export.formats import FORMATS
from eanet.files import read_record

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip("keras", reason="requirements-export.txt has it")


@pytest.mark.slow
def test_keras_answers_what_the_model_does(trained, model, tmp_path):
    out = tmp_path / "digits.weights.h5"
    with jax.numpy_rank_promotion("allow"):  # Keras relies on it
        command.main([str(trained), "--format=keras", f"--out={out}"], "export")
    assert 0 < read_record(out.with_name("digits.weights.h5.json"))["largest_difference"] <= 1e-5
    (mean, std) = keras_files.read(out).statistics
    np.testing.assert_allclose([mean, std], [model.record.mean, model.record.std], rtol=1e-6)


def test_the_older_command_is_the_same(trained, model, tmp_path, monkeypatch):
    def answer(path, model, batches):
        return [model.predict(images) for images in batches]

    format = dataclasses.replace(FORMATS["keras"], answer=answer)
    monkeypatch.setitem(FORMATS, "keras", format)
    monkeypatch.setattr("eanet.host.set_up", lambda: None)
    one, other = tmp_path / "a.weights.h5", tmp_path / "b.weights.h5"
    call(["export", str(trained), "--format=keras", f"--out={one}", "--checkpoint=latest"])
    call(["export-keras", str(trained), str(other), "--checkpoint=latest"])
    assert one.read_bytes() == other.read_bytes()
    assert read_record(Path(f"{one}.json")) == read_record(Path(f"{other}.json"))
    with pytest.raises(UserError, match=r"b\.weights\.h5 is there already"):
        call(["export-keras", str(trained), str(other)])


def test_what_the_example_has_no_layer_for_is_refused_by_name(model):
    config = model.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.final_norm = True
    with pytest.raises(UserError, match=r"cannot express model\.final_norm=True"):
        keras.write(dataclasses.replace(model, config=config), Form())
