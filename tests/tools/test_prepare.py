import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eanet.data import tfds
from eanet.errors import UserError
from eanet.tools import prepare
from tests.helpers.data_fixtures import random_images, write_folder, write_prepared

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_sizes_are_printed_and_odd_names_escaped(tmp_path, capsys):
    folder = tmp_path / "\x1b[31m"
    write_folder(folder, {"train/a": 5, "train/b": 5, "test/a": 2, "test/b": 2}, (8, 8, 1))
    prepare.main([f"folder:{folder}"], "prepare")
    said = capsys.readouterr().out
    assert "8 train, 2 val, 4 test images of 8x8x1, 2 classes" in said
    assert "\\x1b[31m" in said and "\x1b" not in said


@pytest.mark.parametrize("name", ["digits", "folder:images"])
def test_a_directory_that_would_not_be_read_is_refused(name):
    with pytest.raises(UserError, match=f"data_dir=here has no effect: {name} is not looked for"):
        prepare.main([name, "--data_dir=here"], "prepare")


def test_a_size_may_be_asked_for(tmp_path, capsys):
    write_folder(tmp_path / "images", {"a": 4, "b": 4}, (8, 8, 1))
    prepare.main([f"folder:{tmp_path}/images", "--image_size", "4", "6", "--resize=pad"], "prepare")
    assert "4 train, 2 val, 2 test images of 4x6x1, 2 classes" in capsys.readouterr().out


def mixed():
    images = [*random_images(6)[0], *random_images(3, (9, 3, 3))[0]]
    return images, [0, 1, 2] * 3


def test_images_of_mixed_sizes_need_no_size_to_be_prepared(tmp_path, capsys):
    splits = {"train": mixed(), "test": mixed()}
    folder = write_prepared(tmp_path, "array_record", splits, shape=(-1, -1, 3))
    assert prepare.main(["shapes", f"--data_dir={tmp_path}"], "prepare") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"shapes is prepared in {folder}: 9 train, 9 test; not decoded yet: its")
    assert not (tmp_path / "cache").exists()
    size = ["--image_size", "4", "6"]
    assert prepare.main(["shapes", f"--data_dir={tmp_path}", *size], "prepare") == 0
    assert "7 train, 2 val, 9 test images of 4x6x3" in capsys.readouterr().out


def test_a_set_of_one_size_is_decoded_at_once(tmp_path, capsys):
    write_prepared(tmp_path, "tfrecord", {"train": random_images(10), "test": random_images(3)})
    assert prepare.main(["shapes", f"--data_dir={tmp_path}"], "prepare") == 0
    assert "8 train, 2 val, 3 test images of 6x5x3" in capsys.readouterr().out
    assert list((tmp_path / "cache").rglob("*.npy"))


def test_a_set_to_evaluate_on_alone_can_be_prepared(tmp_path, capsys):
    write_prepared(tmp_path, "tfrecord", {"test": random_images(3)})
    assert prepare.main(["shapes", f"--data_dir={tmp_path}"], "prepare") == 0
    assert "3 test; not decoded yet: it has no train split" in capsys.readouterr().out


def test_what_tensorflow_prepares_now_needs_no_size_either(tmp_path, monkeypatch, capsys):
    """The child is replaced by one that does what TFDS would do."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.helpers.data_fixtures import write_prepared
from tests.tools.test_prepare import mixed
name, data_dir = sys.argv[1:]
write_prepared(Path(data_dir), "array_record", {{"train": mixed()}}, name=name, shape=(-1, -1, 3))
"""
    monkeypatch.setattr(tfds, "_PREPARE", program)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert prepare.main(["mnist", f"--data_dir={tmp_path}"], "prepare") == 0
    assert "mnist is prepared in" in capsys.readouterr().out


def test_that_tensorflow_is_missing_has_an_exit_code_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert prepare.main(["mnist", f"--data_dir={tmp_path}"], "prepare") == 5
    said = capsys.readouterr().err
    assert said.startswith(f"error: mnist is not prepared in {tmp_path}; TensorFlow, which")
    assert said.count("\n") == 1
    monkeypatch.setenv("EANET_CIFAR_MIRROR", "http://127.0.0.1:9")  # where nobody answers
    assert prepare.main(["cifar10", f"--data_dir={tmp_path}"], "prepare") == 5
    assert "could not be read" in capsys.readouterr().err
    with pytest.raises(UserError, match="'minst' is neither prepared"):
        prepare.main(["minst", f"--data_dir={tmp_path}"], "prepare")
    monkeypatch.setattr(tfds, "_PREPARE", "print('no network'); exit(1)")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match=r"\(no network\)"):
        prepare.main(["mnist", f"--data_dir={tmp_path}"], "prepare")


@pytest.mark.parametrize(
    ("codes", "installs", "code"), [([0], 0, 0), ([2], 0, 2), ([5, 0], 1, 0), ([5, 2], 1, 2)]
)
def test_make_installs_tensorflow_where_nothing_else_is_missing(codes, installs, code, tmp_path):
    """What make calls is replaced by programs that leave lines and end with these codes."""
    there = tmp_path / ".venv" / "bin"
    there.mkdir(parents=True)
    python, pip = there / "python", there / "pip"
    cases = "".join(f"{n}) exit {each};; " for n, each in enumerate(codes, 1))
    python.write_text(
        f"#!/bin/sh\necho python >> {tmp_path}/log\n"
        f"case $(grep -c python {tmp_path}/log) in {cases} esac\n"
    )
    pip.write_text(f"#!/bin/sh\necho pip $* >> {tmp_path}/log\n")
    for program in (python, pip):
        program.chmod(0o755)
    for name in ("requirements.txt", f".venv/run-{sys.version_info[0]}.{sys.version_info[1]}"):
        (tmp_path / name).touch()
    command = ["make", "-f", ROOT / "Makefile", "prepare", "DATASET=shapes"]
    done = subprocess.run(
        [*command, f"PYTHON={sys.executable}"], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    log = (tmp_path / "log").read_text()
    assert log.count("pip install -q -r requirements-prepare.txt") == installs
    assert log.count("python") == len(codes)
    assert (f"Error {code}" in done.stderr) if code else done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [("0", "5"), ("60000", "60000")])
def test_an_impossible_size_is_refused_before_anything_is_prepared(tmp_path, size):
    with pytest.raises(UserError, match="--image_size"):
        prepare.main(["mnist", f"--data_dir={tmp_path}", "--image_size", *size], "prepare")
