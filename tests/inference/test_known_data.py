"""A run knows its data: what became of a folder after training, and what is then said or done."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eanet
import train
from eanet import config as config_lib
from eanet import files
from eanet.errors import UserError
from eanet.inference.examples import load_examples
from tests.inference.conftest import ROOT

SIDES = {"a": slice(0, 4), "b": slice(4, 8)}  # where the image is bright


def image(rng, name):
    pixels = rng.integers(40, 100, (8, 8), dtype=np.uint8)
    pixels[:, SIDES[name]] += 120
    return Image.fromarray(pixels)


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A directory with `data`, `run` that was trained on it to the end, and a cache."""
    root = tmp_path_factory.mktemp("known")
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 10)):
        for name in SIDES:
            folder = root / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image(rng, name).save(folder / f"{number}.png")
    config = config_lib.load(str(ROOT / "configs/testing.py"))
    config.update_from_flattened_dict(
        {
            "dataset.name": "folder:data",
            "dataset.val_fraction": 0.2,
            "batch_size": 16,
            "num_epochs": 20.0,
            "eval_every_epochs": 5.0,
            "augment.flip": False,
            "augment.mixup": 0.0,
            "optimizer.ema_decay": 0.0,
            "optimizer.learning_rate": 0.01,
            "optimizer.schedule": "constant",
        }
    )
    here = Path.cwd()
    os.chdir(root)
    try:
        train.train(config, Path("run"))
    finally:
        os.chdir(here)
    return root


@pytest.fixture(scope="module")
def compiled(template):
    """The model of the template."""
    return eanet.load(template / "run")


@pytest.fixture
def world(template, tmp_path, monkeypatch):
    """A copy of it whose run believes that it was trained there, in another working directory."""
    root = tmp_path / "world"
    shutil.copytree(template, root)
    content = json.loads((root / "run/model.json").read_text())
    assert content["data"]["place"] == str(template / "data")
    del content["sha256"]
    content["data"]["place"] = str(root / "data")
    (root / "run/model.json").write_text(json.dumps(content))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return root


def paths(world, pattern):
    found = sorted((world / "data").glob(pattern))
    assert found
    return found


def brighten(world, pattern):
    for path in paths(world, pattern):
        Image.fromarray(np.asarray(Image.open(path)) // 2 + 120).save(path)


def replace_unseen(path):
    """Other pixels in a file of the same size, time and name."""
    before = path.stat()
    pixels = np.asarray(Image.open(path)).copy()
    for place in np.ndindex(*pixels.shape):  # until one compresses as well
        pixels[place] ^= 1
        Image.fromarray(pixels).save(path)
        if path.stat().st_size == before.st_size:
            break
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def swap(world, part):
    folder = world / "data" / part
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    (folder / "c").rename(folder / "b")


def rename_class(world, *parts):
    for part in parts:
        (world / "data" / part / "a").rename(world / "data" / part / "z")


def copy_into(world, source, target):
    shutil.copy(paths(world, source)[0], world / "data" / target)


def delete(world, pattern, keep=0):
    for path in paths(world, pattern)[keep:]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# What becomes of the data, then what is said of an evaluation on test and of going on with
# training; None where it is as if nothing had happened.
CHANGES = {
    "nothing": (lambda w: None, None, None),
    "a file of the system": (
        lambda w: (w / "data/test/a/.DS_Store").write_bytes(b""), None, None),
    "train brightened": (lambda w: brighten(w, "train/*/*"), None, "train has other images"),
    "train thinned": (lambda w: delete(w, "train/a/*", 20), None, "train has 40 images inst"),
    "train removed": (lambda w: delete(w, "train"), None, "must hold train/CLASS"),
    "a class of train removed": (lambda w: delete(w, "train/a"), None, "no class 'a' in train"),
    "a class added to train": (
        lambda w: shutil.copytree(w / "data/train/a", w / "data/train/0"),
        None, "class '0' is new"),
    "images added to train": (
        lambda w: copy_into(w, "train/a/*", "train/a/new.png"), None, "val has 13 images"),
    "an image of train renamed": (
        lambda w: paths(w, "train/a/3.png")[0].rename(w / "data/train/a/99.png"),
        None, "another order"),
    "an image of train replaced unseen": (
        lambda w: replace_unseen(w / "data/train/a/3.png"), None, "train has other images"),
    "a class renamed": (
        lambda w: rename_class(w, "train", "test"), "class 'z'", "class 'a' is missing"),
    "a class of test renamed": (
        lambda w: rename_class(w, "test"), "class 'z'", "no class 'z' in train"),
    "classes of test swapped": (lambda w: swap(w, "test"), "other images or l", "test has other"),
    "test brightened": (lambda w: brighten(w, "test/*/*"), "other images or l", "test has other"),
    "an image added to test": (
        lambda w: copy_into(w, "test/a/*", "test/a/new.png"),
        "21 images instead of 20", "test has 21 images"),
    "an image of test removed": (
        lambda w: delete(w, "test/a/3.png"), "19 images instead of 20", "test has 19"),
    "an image of test put into another class": (
        lambda w: paths(w, "test/a/3.png")[0].rename(w / "data/test/b/99.png"),
        "other images or labels", "test has other"),
    "an image of test renamed": (
        lambda w: paths(w, "test/a/3.png")[0].rename(w / "data/test/a/99.png"), None, None),
    "an image of test replaced unseen": (
        lambda w: replace_unseen(w / "data/test/a/3.png"), "other images or", "test has other"),
    "test removed": (lambda w: delete(w, "test"), "test/CLASS", "test/CLASS"),
    "all moved": (
        lambda w: (w / "data").rename(w / "moved"), "no longer in", "there is no such folder"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_evaluation_holds_to_what_the_run_was_trained_on(world, compiled, change):
    make, told, _ = CHANGES[change]
    make(world)
    model = eanet.load(world / "run")
    np.testing.assert_array_equal([model.mean, model.std], [compiled.mean, compiled.std])
    if told is None:
        examples = load_examples(model, "test", log=print)
        answers = compiled.predict(examples.split.images).argmax(1)
        assert len(answers) == 20 and (answers == examples.split.labels).all()
        assert examples.other is None
        return
    with pytest.raises(UserError) as refusal:
        load_examples(model, "test", log=print)
    assert told in str(refusal.value) and "\n" not in str(refusal.value), refusal.value


def test_a_refused_evaluation_leaves_the_results_of_before(world):
    swap(world, "test")
    before = (world / "run/results_test.json").read_bytes()
    with pytest.raises(UserError, match="Restore it, or evaluate on it as other data by --dataset"):
        train.evaluate(world / "run")
    assert (world / "run/results_test.json").read_bytes() == before
    assert train.evaluate(world / "run", dataset=f"folder:{world}/data")["accuracy"] == 0.0
    assert (world / "run/results_test.json").read_bytes() == before


@pytest.mark.parametrize("change", CHANGES)
def test_training_goes_on_with_the_data_of_the_run_alone(world, change, capsys):
    make, _, told = CHANGES[change]
    make(world)
    before = {p: p.read_bytes() for p in (world / "run").rglob("*") if p.is_file()}
    if told is None:
        assert train.train(None, world / "run")["accuracy"] == 1.0
        assert "already complete" in capsys.readouterr().out
        return
    with pytest.raises(UserError) as refusal:
        train.train(None, world / "run")
    assert told in str(refusal.value) and "\n" not in str(refusal.value), refusal.value
    assert before == {p: p.read_bytes() for p in (world / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_divided_from_train_needs_train_alone(world, split):
    delete(world, "test")
    results = train.evaluate(world / "run", split=split)
    assert results["accuracy"] > 0.9 and results["num_examples"] == {"train": 48, "val": 12}[split]
    delete(world, "train/a/*", 20)
    with pytest.raises(UserError, match=f"{split} of .* has .* images instead of"):
        train.evaluate(world / "run", split=split)


def test_other_data_that_is_asked_for_has_results_of_its_own(world):
    shutil.copytree(world / "data", world / "other")
    copy_into(world, "test/a/*", "../other/test/a/new.png")
    before = (world / "run/results_test.json").read_bytes()
    results = train.evaluate(world / "run", dataset=f"folder:{world}/other")
    assert (results["num_examples"], results["accuracy"]) == (21, 1.0)
    assert (world / "run/results_test.json").read_bytes() == before
    (path,) = (world / "run").glob("results_test_on_other-*.json")
    recorded = json.loads(path.read_text())
    assert recorded["dataset"] == f"folder:{world}/other" and recorded["num_examples"] == 21


def test_labels_are_mapped_by_their_names(world):
    """Of b alone the label is 0, which means a to the model."""
    delete(world, "test/a")
    shutil.rmtree(world / "data/train")
    results = train.evaluate(world / "run", data_dir=str(world / "data"))
    assert (results["num_examples"], results["accuracy"]) == (10, 1.0)


def test_data_that_was_moved_is_the_same_data(world):
    (world / "data").rename(world / "moved")
    (world / "run/results_test.json").unlink()
    assert train.evaluate(world / "run", data_dir=str(world / "moved"))["accuracy"] == 1.0
    assert [p.name for p in (world / "run").glob("results_*")] == ["results_test.json"]


def test_training_goes_on_with_data_that_was_moved(world, capsys):
    (world / "data").rename(world / "moved")
    config = config_lib.from_json(world / "run/config.json")
    with config.unlocked():
        config.dataset.name = f"folder:{world}/moved"
    train.train(config, world / "run")
    assert f"it was in {world}/data" in capsys.readouterr().out
    assert train.evaluate(world / "run")["accuracy"] == 1.0  # it knows now where


def test_a_run_of_before_model_json_takes_it_from_its_data(world, monkeypatch, capsys):
    (world / "run/model.json").unlink()
    monkeypatch.chdir(world)
    assert train.evaluate(Path("run"))["accuracy"] == 1.0
    assert "has no model.json" in "".join(capsys.readouterr())
    assert not (world / "run/model.json").exists()
    train.train(None, Path("run"))
    assert "no model.json" in capsys.readouterr().out
    content = json.loads((world / "run/model.json").read_text())
    assert content["data"]["place"] == str(world / "data")


@pytest.mark.parametrize(
    ("dataset", "data_dir", "told"),
    [
        ("digits", None, "does not know; it knows a, b$"),
        ("folder:/nonexistent", None, "there is no such folder"),
        ("digit", None, "digits"),
        ("digits", "/data", "data_dir=/data has no effect: digits is not looked for in one"),
        ("folder:/a", "/data", "data_dir=/data has no effect: folder:/a is not looked for in one"),
    ],
)
def test_other_data_that_does_not_suit_is_refused(world, dataset, data_dir, told):
    with pytest.raises(UserError, match=told):
        train.evaluate(world / "run", dataset=dataset, data_dir=data_dir)


@pytest.mark.parametrize(
    ("number", "recorded"),
    [(errno.EROFS, "not recorded"), (errno.ENOSPC, None)],
)
def test_results_that_cannot_be_recorded_are_shown(world, monkeypatch, capsys, number, recorded):
    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    if recorded:
        assert train.evaluate(world / "run")["accuracy"] == 1.0
    else:
        with pytest.raises(UserError, match="No space left"):
            train.evaluate(world / "run")
    out, _ = shown = capsys.readouterr()
    assert "top-1 accuracy" in out and (recorded or "") in "".join(shown)


def test_an_evaluation_that_began_earlier_says_that_it_is_not_recorded(world, capsys):
    path = world / "run/results_test.json"
    later = files.read_record(path) | {"step": 10_000}
    files.write_record(path, later)
    train.evaluate(world / "run")
    assert "results of a later step" in "".join(capsys.readouterr())
    assert files.read_record(path) == later


def test_other_data_of_other_sizes_is_resized_as_the_run_does(world, compiled):
    other = world / "other"
    for part in ("train", "test"):
        for name in SIDES:
            (other / part / name).mkdir(parents=True)
            for number, path in enumerate(paths(world, f"{part}/{name}/*.png")):
                large = Image.open(path).resize(
                    (8 * (2 + number % 3),) * 2, Image.Resampling.NEAREST
                )
                large.save(other / part / name / path.name)
    examples = load_examples(compiled, "test", dataset=f"folder:{other}", log=print)
    assert examples.split.images.shape[1:] == compiled.image_shape
    answers = compiled.predict(examples.split.images).argmax(1)
    assert (answers == examples.split.labels).mean() > 0.9
