"""The folder of a Space: whole, with the weights alone, and without what is private."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

import eanet
from eanet.__main__ import call
from eanet.errors import UserError
from tests.inference.conftest import ROOT

RUN = "runs/a___run_"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """JAX runs already."""
    monkeypatch.setattr("eanet.host.set_up", lambda: None)


@pytest.fixture(scope="module")
def placed(trained, tmp_path_factory):
    """A run whose config and record tell where the data lay."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("space") / "a: 'run'")
    config = json.loads((run / "config.json").read_text())
    config["dataset"] |= {"name": "folder:/home/me/digits", "data_dir": "/home/me"}
    config["init_from"] = "/home/me/run"
    (run / "config.json").write_text(json.dumps(config))
    record = json.loads((run / "model.json").read_text())
    record["data"] |= {"name": "folder:/home/me/digits", "place": "/home/me/digits"}
    del record["sha256"]
    (run / "model.json").write_text(json.dumps(record))
    (run / "run.json").unlink()
    return run


@pytest.fixture(scope="module")
def space(placed, tmp_path_factory):
    out = tmp_path_factory.mktemp("space") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eanet.host.set_up", lambda: None)
        assert call(["demo", str(placed), f"--space={out}"]) in (None, 0)
    return out


def test_the_run_in_it_answers_as_the_run(space, trained):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    ours, theirs = eanet.load(trained), eanet.load(space / RUN)
    np.testing.assert_array_equal(ours.predict(images), theirs.predict(images))
    (checkpoint,) = (space / RUN / "checkpoints").iterdir()
    tensors = json.loads((checkpoint / "manifest.json").read_text())["facts"]["tensors"]
    assert checkpoint.name == "39" and all(name.startswith("params/") for name in tensors)


def test_nothing_tells_where_the_data_lay(space, placed):
    assert sorted(path.name for path in (space / RUN).iterdir()) == [
        "checkpoints", "config.json", "model.json",
    ]  # fmt: skip
    private = (b"/home/me", os.fsencode(placed.parent))
    for path in space.rglob("*"):
        assert path.is_dir() or not any(word in path.read_bytes() for word in private), path
    assert eanet.load(space / RUN).config.dataset.name == "folder:digits"


def test_it_says_what_a_space_has_to_say(space):
    _, front, _ = (space / "README.md").read_text().split("---\n")
    facts = yaml.safe_load(front)
    assert facts["title"] == "a: 'run'" and facts["sdk"] == "gradio"
    assert (space / facts["app_file"]).is_file()
    pins = (space / "requirements.txt").read_text()
    assert f"gradio=={facts['sdk_version']}\n" in pins and not re.search("^-", pins, re.M)


def test_its_program_is_whole(space):
    """It runs, with nothing of this checkout, as far as without Gradio it can."""
    code = "import runpy, sys; sys.modules['gradio'] = None; runpy.run_path('app.py')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=space, capture_output=True, text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the demo needs Gradio") and done.stderr.count("\n") == 1
    ours = {path.relative_to(ROOT) for path in (ROOT / "eanet").rglob("*.py")}
    assert ours == {path.relative_to(space) for path in (space / "eanet").rglob("*.py")}


def test_a_folder_that_is_there_is_refused(placed, space, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    for out in (space, tmp_path / "link"):
        with pytest.raises(UserError, match="is there; choose another --space"):
            call(["demo", str(placed), f"--space={out}"])
