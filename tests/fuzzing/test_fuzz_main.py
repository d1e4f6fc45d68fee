"""The program itself, given what the other fuzz tests give to its parts."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from eanet.errors import UserError
from tests.helpers import plain
from tests.helpers.command_line import fork_main, start_python
from tests.helpers.data_fixtures import write_folder
from tests.helpers.fuzz import tried

TINY = (*plain.ARGUMENTS, "--config.num_epochs=0.9", "--config.batch_size=8")

pytestmark = pytest.mark.slow


def said_by(done):
    """What a command said; exit code 2 and one line become the error that they were."""
    if done.returncode == 0:
        assert done.stderr == "", done.stderr
        return done.stdout
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: "), line
    raise UserError(line)


def run(*arguments):
    return tried("main.py", lambda: said_by(fork_main(*arguments)))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images whose own name and those of its classes are odd, one of them no UTF-8."""
    folder = tmp_path_factory.mktemp("images") / os.fsdecode(b"\xff \x1b[31m")
    odd = os.fsdecode(b"b\xfe")
    write_folder(
        folder, {"train/a": 20, f"train/{odd}": 20, "test/a": 2, f"test/{odd}": 2}, (8, 8, 1)
    )
    return folder


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    assert run(*TINY, f"--config.dataset.name=folder:{images}", f"--workdir={workdir}")
    return workdir


def test_a_folder_with_names_that_are_no_text(images, trained):
    assert "accuracy" in json.loads((trained / "results_test.json").read_text())
    prepared = start_python("-m", "eanet", "prepare", f"folder:{images}")
    assert tried("main.py", lambda: said_by(prepared))


def test_a_damaged_image_among_them(images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    path = tmp_path / "images" / "train" / "a" / "odd.tif"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path, compression="tiff_lzw")
    path.write_bytes(path.read_bytes().replace(b"\x80", b"\xff"))
    run(*TINY, f"--config.dataset.name=folder:{tmp_path}/images", f"--workdir={tmp_path}/run")


def test_files_of_a_run_that_are_damaged(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    (workdir / "metrics.jsonl").write_bytes(b"\xff\n[" + b"[" * 100_000)
    assert run("--mode=eval", f"--workdir={workdir}")
    (workdir / "results_val.json").write_bytes(b"[" * 100_000)
    assert run("--mode=eval", f"--workdir={workdir}") is None
    (workdir / "config.json").write_bytes(b'{"model": ' * 100_000)
    assert run("--mode=eval", f"--workdir={workdir}") is None


@pytest.mark.parametrize(
    "arguments",
    [
        [f"--workdir=/tmp/{'x' * 300}"],
        ["--config.model.embed_dim=65536", "--config.model.num_heads=65536"],
        ["--config.dataset.name=\x1b[31m\n\udcff"],
    ],
    ids=["name", "memory", "text"],
)
def test_impossible_arguments(tmp_path, arguments):
    assert run(*TINY, f"--workdir={tmp_path}/run", *arguments) is None
    assert not (tmp_path / "run").exists()
