"""The page: well-formed, whole in itself, with names as they are, and no wider than a phone."""

import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest

from eanet.atlas import measure, page, photos, pictures, without
from eanet.display.plot_style import saved

ignore = lambda _: None  # noqa: E731

HOSTILE = ["<script>alert(1)</script>", "$\\frac$", "a\x1b[31m", '" onload="x', "&amp;"]
NAMES = (HOSTILE * 2)[:10]


@pytest.fixture(scope="module")
def rendered(model, examples):
    """The page of a model whose classes and images have hostile names."""
    blocks = measure.units(model, examples, ignore)
    off = without.measure(model, examples[:20], ignore)
    for each, change in zip(blocks, off["change"], strict=True):
        each["change"] = change
    photo = photos.look_at(model, [], examples, units=True)[0]
    photo = photos.Photo(NAMES[0], photo.pixels, NAMES[3], [(NAMES[1], 0.5)], photo.attention)
    figure = saved(pictures.block(NAMES[1], blocks[0], NAMES), "png")
    names = ("memory", "positions", "block_1", "block_2")
    return page.render(
        page.Page(
            NAMES[0], NAMES[3], examples, (2, 2), NAMES, [photo],
            dict.fromkeys(names, figure), blocks, off,
        )
    )  # fmt: skip


def test_it_is_well_formed_and_asks_for_nothing(rendered):
    root = ElementTree.fromstring(rendered)
    elements = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert "script" not in elements and "iframe" not in elements
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value.startswith("data:")
    assert not re.search(rb"url\((?!#)|@import", rendered)


def test_names_are_shown_as_they_are(rendered):
    words = "".join(ElementTree.fromstring(rendered).itertext())
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[3], HOSTILE[4], r"a\x1b[31m"):
        assert name in words
    assert b"\x1b" not in rendered


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_scrolling_sideways(rendered, width, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    # A page cannot be asked from outside without a driver: a frame of this width is measured.
    (tmp_path / "page.html").write_bytes(rendered)
    (tmp_path / "outer.html").write_text(
        f'<iframe id="f" src="page.html" style="width: {width}px; height: 800px"></iframe>'
        "<script>onload = () => { const d = f.contentDocument; const all = [...d.images];"
        "document.body.textContent = [d.documentElement.scrollWidth, d.documentElement.clientWidth,"
        "all.length, all.filter(i => i.naturalWidth).length].join(' ') }</script>"
    )
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", str(tmp_path / "outer.html")],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    numbers = re.search(r"(\d+) (\d+) (\d+) (\d+)", done.stdout)
    assert numbers, done.stdout[-500:]
    scroll, client, images, drawn = map(int, numbers.groups())
    assert scroll <= client <= width
    assert images == drawn == 4


def test_patches_are_marked_where_they_are(rendered):
    """The first card's first box is of the best patch: half an image wide, on a 2 × 2 grid."""
    svg = rendered.decode().split('class="card"')[1]
    box = re.search(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>', svg)
    x, y, width, height = map(float, box.groups())
    assert (width, height) == (4, 4) and {x, y} <= {0, 4}
    assert np.isfinite([x, y]).all()
