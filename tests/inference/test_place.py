"""Where a model is taken from, and where what is made of it goes."""

from pathlib import Path

import pytest

from eanet.__main__ import call
from eanet.errors import UserError
from eanet.inference.place import Place

pytest.importorskip("huggingface_hub", reason="needs requirements-hub.txt")


@pytest.mark.parametrize(
    ("place", "name", "out"),
    [
        ("runs/digits", "digits", "runs/digits/export/model.onnx"),
        ("runs/digits/a.safetensors", "a.safetensors", "runs/digits/model.onnx"),
        ("hf:someone/digits@v1", "digits", None),
    ],
)
def test_what_is_made_of_a_model_goes_beside_it(place, name, out):
    found = Place.of(place)
    assert found.name == name and str(found) == place
    assert found.out("here/a.onnx", "export/model.onnx") == Path("here/a.onnx")
    if out is None:
        with pytest.raises(UserError, match="hf:someone/digits@v1 is at the hub: say by --out="):
            found.out(None, "export/model.onnx")
    else:
        assert found.out(None, "export/model.onnx") == Path(out)


@pytest.mark.parametrize(
    "tool", [["atlas"], ["export", "--format=safetensors"], ["demo", "--space=new/space"]]
)
def test_of_a_run_that_is_not_there_nothing_is_left(tool, tmp_path, monkeypatch):
    monkeypatch.setattr("eanet.host.set_up", lambda: None)
    monkeypatch.chdir(tmp_path)
    name, *options = tool
    with pytest.raises(UserError, match=r"cannot read runs/typo/config\.json"):
        call([name, "runs/typo", *options])
    assert not list(tmp_path.iterdir())
