"""`python -m eanet atlas`: its files, its page in a browser, and what it refuses."""

import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eanet import config as config_lib
from eanet import files
from eanet.__main__ import call
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from eanet.training.run import set_up

HOSTILE = '$\\frac$<script>alert("\x1b[31m&")</script>'


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """JAX runs already; of each figure a small PNG will do."""
    monkeypatch.setattr("eanet.host.set_up", lambda: None)
    monkeypatch.setattr("eanet.atlas.command._KINDS", ("png",))


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A run with a class of a hostile name, and its atlas."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("atlas") / "a & b")
    record = json.loads((run / "model.json").read_text())
    record["class_names"][3] = HOSTILE
    del record["sha256"]
    (run / "model.json").write_text(json.dumps(record))
    return run


@pytest.fixture(scope="module")
def atlas(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eanet.host.set_up", lambda: None)
        patch.setattr("eanet.inference.examples.load_part", _with_classes_of_the_run)
        assert call(["atlas", str(run), "--examples=100"]) in (None, 0)
    return run / "atlas"


def _with_classes_of_the_run(*arguments, **options):
    from eanet.data.load import load_part

    return load_part(*arguments, **{**options, "class_names": tuple("0123456789")})


def page_of(atlas):
    return (atlas / "index.html").read_text()


@pytest.mark.slow
def test_the_page_is_whole_and_asks_for_nothing(atlas):
    text = page_of(atlas)
    root = ET.fromstring(text.removeprefix("<!DOCTYPE html>"))
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert not {"script", "iframe", "object"} & set(tags)
    for element in root.iter():
        for key in ("src", "href"):
            assert element.get(key, "data:").startswith(("data:", "#"))
    assert not re.findall(r"url\((?!#)", text) and "http" not in text.replace("http-equiv", "")
    assert root.find(".//meta[@name='viewport']") is not None
    assert len(text) < 2**20


def test_hostile_names_are_text(atlas):
    text = page_of(atlas)
    assert "<script" not in text and "\x1b" not in text
    assert html.escape('$\\frac$<script>alert("\\x1b[31m&")</script>') in text
    assert "<title>The memory of a &amp; b</title>" in text


def test_the_numbers_are_recorded(atlas, trained):
    record = json.loads((atlas / "atlas.json").read_text())
    assert record["kind"] == "units" and record["num_examples"] == 359
    assert record["without"]["num_examples"] == 100 and len(record["blocks"]) == 2
    for block in record["blocks"]:
        assert np.shape(block["classes"]) == (8, 10) and np.shape(block["positions"]) == (8, 4)
        assert sum(block["share"]) == pytest.approx(1, abs=1e-3)
    names = {path.stem for path in (atlas / "figures").iterdir()}
    assert {"memory", "positions", "block_1", "block_2", "patches_2", "image_4"} <= names
    assert {path.suffix for path in (atlas / "figures").iterdir()} == {".png", ".svg", ".pdf"}


@pytest.mark.slow
def test_two_runs_beside_one_another_replace_an_atlas_as_a_whole(trained, atlas, tmp_path):
    image = tmp_path / "grey <b>.png"
    Image.fromarray(np.arange(99, dtype=np.uint8).reshape(9, 11)).save(image)
    run = shutil.copytree(trained, tmp_path / "other")
    out = tmp_path / "out"
    out.mkdir()
    (out / "atlas.json").write_text("{}")
    (out / "stale").write_text("")
    options = ["--examples=7", f"--against={atlas.parent}", f"--images={image}", f"--out={out}"]
    call(["atlas", str(run), *options])
    assert not (out / "stale").exists() and not (run / "atlas").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grey <b>.png", "other", "out"]
    text = page_of(out)
    ET.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert "Against a &amp; b" in text and "grey &lt;b&gt;.png" in text


@pytest.mark.slow
def test_self_attention_has_heads_and_rollout(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "self")
    config = config_lib.from_json(run / "config.json")
    config.model.attention = "self"
    (run / "config.json").write_bytes(config_lib.to_json(config))
    (run / "run.json").unlink()  # which is how a person says that it was meant
    shutil.rmtree(run / "checkpoints")
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save(0, set_up(config, print).initial_state())
    call(["atlas", str(run)])
    assert "no memory" in page_of(run / "atlas")
    (first, _) = json.loads((run / "atlas/atlas.json").read_text())["blocks"]
    assert sum(first["rollout"]) == pytest.approx(1, abs=1e-3)
    for option in (f"--against={tmp_path}", "--examples=9"):
        with pytest.raises(UserError, match="self-attention"):
            call(["atlas", str(run), option])


def test_without_a_norm_there_are_no_shares_to_show(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "linear")
    config = config_lib.from_json(run / "config.json")
    config.model.norm = "none"
    (run / "config.json").write_bytes(config_lib.to_json(config))
    (run / "run.json").unlink()
    with pytest.raises(UserError, match="no unit has a share"):
        call(["atlas", str(run)])


def test_what_cannot_be_is_refused_before_anything_is_measured(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("eanet.atlas.measure.units", lambda *_: pytest.fail("too late"))
    (tmp_path / "file").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/atlas.json").write_text('{"format": 1, "kind": "units", "blocks": [3]}')
    for options, message in (
        (["--out", str(tmp_path / "mine")], "is no atlas; choose another --out"),
        (["--out", str(tmp_path / "file/x")], "cannot write .*choose another --out"),
        (["--examples=0"], "at least one"),
        (["--against", str(tmp_path)], "has no atlas; make it first"),
        (["--against", str(tmp_path / "bad")], "is no atlas"),
        (["--images", str(tmp_path / "file")], "is not an image"),
        (["--split=all"], "invalid choice"),
    ):
        with pytest.raises(UserError, match=message):
            call(["atlas", str(trained), *options])
    assert not (trained / "atlas").exists()


@pytest.mark.parametrize("where", ["write", "put in place"])
def test_a_failed_write_leaves_the_old_atlas(tmp_path, monkeypatch, where):
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas/old").write_text("old")
    rename = Path.rename

    def full(path, *_):
        raise OSError(28, "No space left on device")

    if where == "write":
        monkeypatch.setattr(files, "write_atomically", full)
    else:
        monkeypatch.setattr(
            Path, "rename", lambda p, to: (full if p.suffix == ".tmp" else rename)(p, to)
        )
    with pytest.raises(UserError, match="No space left"):
        files.write_directory(tmp_path / "atlas", {"a/b": b""})
    assert [p.name for p in tmp_path.iterdir()] == ["atlas"]
    assert (tmp_path / "atlas/old").read_text() == "old"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it(atlas, tmp_path, width):
    """In a frame of that width, since a window cannot be as narrow as a phone."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin: 0"><iframe id="f" style="width: {width}px; height: 900px" srcdoc="'
        + html.escape(page_of(atlas).replace("<details>", '<details open="open">'))
        + '"></iframe><script>onload = () => { const d = f.contentDocument;'
        "document.title = [d.documentElement.scrollWidth - d.documentElement.clientWidth,"
        "d.images.length, [...d.images].filter(i => !i.naturalWidth).length].join() }</script>"
    )
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900", "--dump-dom",
         frame.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    overflow, images, broken = map(
        int, re.search(r"<title>(.*?)</title>", done.stdout)[1].split(",")
    )
    assert (overflow, broken) == (0, 0) and images >= 4
    assert "CONSOLE" not in done.stderr
