"""The mode `predict`: from files of any kind to what is said and written of them."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

import eanet
import train
from eanet import streams
from eanet.data.base import Wanted
from eanet.data.digits import digits_source
from eanet.errors import Interrupted, UserError
from eanet.inference import predict as predict_lib
from tests.helpers.data_fixtures import deep_png
from tests.inference.conftest import ROOT


def predict(workdir, *images, **options):
    defaults = dict(checkpoint="best", resize="squash", top=None, out=None, strict=False)
    predict_lib.predict(workdir, list(map(str, images)), **{**defaults, **options})


def pixels_of(path):
    """What is to be seen in a file of the digits."""
    image = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return image.reshape(8, 8, -1)[..., :1]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def model(trained):
    return eanet.load(trained)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """`test/CLASS/NUMBER.png` of the digits: grey, in colour, of 16 bits, and lying on the side."""
    root = tmp_path_factory.mktemp("digits")
    split = digits_source("", Wanted()).read().splits["test"]
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
        path = root / "test" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels[..., 0])
        if number % 4 == 1:
            image.convert("LA").save(path)
        elif number % 4 == 2:
            path.write_bytes(deep_png(pixels.astype(np.uint16) << 8 | 255))
        elif number % 4 == 3:
            image.rotate(90, expand=True).save(path, exif=turned)
        else:
            image.save(path)
    return root


@pytest.fixture
def mixed(digits, tmp_path, monkeypatch):
    """The working directory: good and bad images of different sizes, under names of all kinds."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("images/below")
    first = next(path for path in (digits / "test/7").iterdir() if int(path.stem) % 4 == 0)
    for name in ("images/2.png", "images/10.png", "images/below/=1.png"):
        os.link(first, name)
    Image.open(first).convert("RGB").resize((50, 20)).save("images/1.jpg")
    (tmp_path / "images/3.png").write_bytes(first.read_bytes()[:60])
    os.mkfifo("images/4.png")
    (tmp_path / "images/notes.txt").write_text("no image")
    return tmp_path / "images"


def test_by_path_the_answers_are_those_that_evaluation_counts(
    copy, digits, tmp_path, undrawn, capsys
):
    results = train.evaluate(copy, dataset=f"folder:{digits}")
    predict(copy, digits / "test", out=tmp_path / "x.jsonl", top=1)
    answers = rows(tmp_path / "x.jsonl")
    right = [row["class_1"] == row["path"].split("/")[-2] for row in answers]
    assert len(right) == results["num_examples"] == 359
    assert np.mean(right) == pytest.approx(results["accuracy"], abs=1e-7)
    assert "resized" not in capsys.readouterr().out


def test_what_is_written_is_what_the_model_says_of_the_pixels(trained, model, mixed, tmp_path):
    predict(trained, "images", out=tmp_path / "x.jsonl", resize="pad", top=3)
    found = {row["path"]: row for row in rows(tmp_path / "x.jsonl")}
    assert list(found) == [
        "images/1.jpg", "images/2.png", "images/3.png", "images/4.png", "images/10.png",
        "images/below/=1.png",
    ]  # fmt: skip
    pixels = np.zeros((2, 8, 8, 1), np.uint8)
    small = Image.open("images/1.jpg").convert("L").resize((8, 3), Image.Resampling.BILINEAR)
    pixels[0, 2:5, :, 0] = small
    pixels[1, ..., 0] = Image.open("images/2.png")
    for name, expected in zip(("1.jpg", "2.png"), model.predict(pixels), strict=True):
        row, order = found[f"images/{name}"], np.argsort(-expected)[:3]
        assert [row[f"class_{rank}"] for rank in (1, 2, 3)] == [str(label) for label in order]
        said = [row[f"probability_{rank}"] for rank in (1, 2, 3)]
        np.testing.assert_allclose(said, expected[order], rtol=1e-5)
        assert row["error"] is None
    assert "truncated" in found["images/3.png"]["error"]
    assert "not a regular file" in found["images/4.png"]["error"]


def test_a_person_is_told_what_is_seen_and_what_is_not(trained, mixed, capsys):
    predict(trained, "images", "images/1.jpg")
    *lines, resized, speed, missing = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("warning: images/3.png cannot be read as an image:")
    assert lines[1].startswith("warning: images/4.png cannot be read as an image:")
    assert [line.split()[0] for line in lines[2:7]] == [
        "images/1.jpg", "images/2.png", "images/10.png", "images/below/=1.png", "images/1.jpg"
    ]  # fmt: skip
    assert re.fullmatch(r"images/2\.png( +\d +\d+\.\d\d%){5}", lines[3])
    assert lines[7] == "ignored besides images: 1, such as notes.txt"
    assert resized == "2 of 7 images were resized to 8×8 (squash)"
    assert re.fullmatch(r"7 images in .* s  .* images/s", speed)
    assert missing == "warning: 2 of 7 images could not be read"


def test_paths_in_python_are_answered_as_their_pixels(model, digits, mixed):
    paths = sorted((digits / "test/3").iterdir())[:70]
    pixels = np.stack(list(map(pixels_of, paths)))
    np.testing.assert_array_equal(model.predict(paths), model.predict(pixels))
    np.testing.assert_array_equal(model.predict(str(paths[0])), model.predict(paths[:1]))
    assert model.features(["images/1.jpg", paths[0]]).shape == (2, 4, 16)
    with pytest.raises(UserError, match=r"images/3\.png cannot be read as an image: .*truncated"):
        model.predict([*paths, "images/3.png"])


def test_strict_ends_with_an_error_when_all_is_written(trained, mixed):
    with pytest.raises(UserError, match="2 of 6 images could not be read"):
        predict(trained, "images", out=mixed / "x.csv", strict=True)
    assert len((mixed / "x.csv").read_text().splitlines()) == 7


def test_where_nothing_can_be_read_it_ends_with_an_error(trained, mixed):
    with pytest.raises(UserError, match="2 of 2 images could not be read"):
        predict(trained, "images/3.png", "images/4.png", out=mixed / "y.csv")
    assert len((mixed / "y.csv").read_text().splitlines()) == 3


def test_where_nothing_is_found_nothing_is_replaced(trained, mixed, tmp_path):
    predict(trained, "images/2.png", out=tmp_path / "x.csv")
    before = (tmp_path / "x.csv").read_bytes()
    os.mkdir("empty")
    with pytest.raises(UserError, match="there are no images in empty"):
        predict(trained, "empty", out=tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == before


@pytest.mark.parametrize("top", [0, 11, -1])
def test_a_number_of_classes_that_the_model_does_not_have_is_refused(trained, mixed, top):
    with pytest.raises(UserError, match=rf"--top={top} must be from 1 to 10, the classes"):
        predict(trained, "images", top=top)


def test_nothing_goes_on_for_a_reader_that_has_seen_enough(trained, mixed, monkeypatch, capsys):
    monkeypatch.setattr(predict_lib, "_MOST_IMAGES", 2)
    monkeypatch.setattr(streams, "output_is_lost", lambda: True)
    predict(trained, "images/2.png", "images")
    assert capsys.readouterr().out.count("%") == 10


def test_a_signal_between_batches_ends_it_and_writes_nothing(trained, mixed, monkeypatch):
    monkeypatch.setattr(predict_lib, "_MOST_IMAGES", 2)
    add = predict_lib.Count.add

    def stop(self, images):
        add(self, images)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(predict_lib.Count, "add", stop)
    with pytest.raises(Interrupted, match=r"interrupted after 2 images: .*x.csv is not written"):
        predict(trained, "images", out=mixed / "x.csv")
    assert not (mixed / "x.csv").exists()


@pytest.fixture
def run_main(trained):
    def run(*arguments, **options):
        command = [sys.executable, "main.py", "--mode=predict", f"--workdir={trained}", *arguments]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)

    return run


@pytest.mark.slow
def test_the_command_with_a_list_on_standard_input(run_main, mixed, tmp_path):
    process = run_main("--images=-", "--top=2", "--strict", f"--out={tmp_path / 'x.csv'}")
    out, error = process.communicate(f"{mixed}/2.png\n\n{mixed}/nowhere.png\n", timeout=120)
    assert (process.returncode, error) == (2, "error: 1 of 2 images could not be read\n")
    assert "nowhere.png cannot be read as an image: No such file" in out
    header, first, second = (tmp_path / "x.csv").read_text().splitlines()
    assert header == "path,class_1,probability_1,class_2,probability_2,error"
    assert first.startswith(f"{mixed}/2.png,") and second.startswith(f"{mixed}/nowhere.png,,,,,")


@pytest.mark.slow
def test_the_command_that_waits_for_a_list_is_interrupted(run_main, tmp_path):
    process = run_main("--images=-", f"--out={tmp_path / 'x.csv'}")
    while not list(tmp_path.glob(".x.csv.*.tmp")):  # it has begun
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr.read() == (
        f"interrupted after 0 images: {tmp_path / 'x.csv'} is not written\n"
    )
    assert not list(tmp_path.iterdir())
