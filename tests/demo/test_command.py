"""`python -m eanet demo`: what the page answers, what it refuses, and the page in a browser."""

import dataclasses
import html
import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import eanet
from eanet.__main__ import call
from eanet.atlas.photos import Viewer
from eanet.demo.page import answer
from eanet.errors import UserError
from tests.helpers.browser import Browser
from tests.inference.conftest import ROOT

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m"


@pytest.fixture
def own_environment(monkeypatch):
    """JAX runs already."""
    monkeypatch.setattr("eanet.host.set_up", lambda: None)


@pytest.fixture(scope="module")
def model(trained):
    return eanet.load(trained)


@pytest.fixture(scope="module")
def viewer(model):
    return Viewer(model, top=5)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def test_an_image_has_its_likeliest_classes_and_the_attention_of_each_block(viewer, model, photo):
    classes, shown = answer(viewer, photo)
    (probabilities,) = model.predict(photo)
    best = np.argsort(-probabilities)[:5]
    assert list(classes) == [model.class_names[label] for label in best]
    np.testing.assert_allclose(list(classes.values()), probabilities[best], rtol=1e-6)
    assert shown.count('class="veil"') == 1 + 2  # all blocks, and the heads of each
    assert "http" not in shown and re.findall(r'href="(.{5})', shown).count("data:") == 4


def test_without_an_image_nothing_is_shown(viewer):
    assert answer(viewer, None) == (None, "")


def test_a_broken_image_is_named_as_it_was_sent(viewer, tmp_path):
    (tmp_path / f"{HOSTILE}.png").write_text("no image")
    classes, shown = answer(viewer, str(tmp_path / f"{HOSTILE}.png"))
    name = html.escape(HOSTILE.replace("\x1b", "\\x1b"))
    assert classes is None
    assert shown == f"<p>{name}.png cannot be read as an image: no format fits it</p>"


def test_hostile_names_of_classes_are_text(model, photo):
    names = tuple(f"{label} {HOSTILE}" for label in range(10))
    record = dataclasses.replace(model.record, class_names=names)
    classes, shown = answer(Viewer(dataclasses.replace(model, record=record)), photo)
    assert len(classes) == 3 and not any("\x1b" in name for name in classes)
    assert "onerror" not in shown


def test_what_cannot_be_served_is_refused_in_a_line(
    trained, tmp_path, own_environment, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-demo\.txt"):
        call(["demo", str(trained)])
    monkeypatch.setattr("eanet.demo.server.check_installed", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1: Address already in use"):
            call(["demo", str(trained), f"--port={port}"])
    for options, message in (
        (["--port=65536"], "must be from 0 to 65535"),
        (["--host=no.such.host.invalid"], "cannot listen on port 7860 of no.such.host.invalid: "),
        (["--port=0", "--space=x"], "--space serves nothing"),
        (["--host=::1", "--space=x"], "--space serves nothing"),
        (["--checkpoint=7", "--port=0"], "step 7"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            call(["demo", str(trained), *options])
    with pytest.raises(UserError, match=r"config\.json"):
        call(["demo", str(tmp_path), "--port=0"])


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("gradio", reason="needs Gradio: pip install -r requirements-demo.txt")
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


@pytest.mark.slow
def test_a_browser_shows_it_on_a_desk_and_on_a_phone(trained, photo, browser, tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (tmp_path / "broken.png").write_text("no image")
    server = subprocess.Popen(
        [sys.executable, "-m", "eanet", "demo", str(trained), "--port=0"],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(uploads)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        address = server.stdout.readline().split()[0]
        for width, image, shown in (
            (1280, photo, "document.querySelectorAll('.veil').length == 3"),
            (390, photo, "document.querySelectorAll('.veil').length == 3"),
            (
                390,
                tmp_path / "broken.png",
                "document.body.innerText.includes('\\nbroken.png cannot')",
            ),
        ):
            browser.resize(width, 900)
            browser.call("Page.navigate", url=address)
            browser.wait("document.querySelector('input[type=file]')")
            browser.give("input[type=file]", image)
            browser.wait(shown)
            assert browser.run("document.documentElement.scrollWidth") == width
        assert browser.run("document.images.length") == 0
        assert all(url.startswith((address, "data:")) for url in browser.requested)
        assert any(uploads.iterdir())
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        assert server.stderr.read() == "interrupted\n" and not any(uploads.iterdir())
    finally:
        server.kill()
        server.communicate()
