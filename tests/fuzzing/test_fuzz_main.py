"""The program itself, given what the other fuzz tests give to its parts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eanet.errors import UserError
from tests.helpers.data_fixtures import write_folder
from tests.helpers.fuzz import tried

ROOT = Path(__file__).parents[2]
TINY = ("--config=configs/testing.py", "--config.num_epochs=0.9", "--config.batch_size=8")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run():
    """Runs a command; a refusal with exit code 2 and one line becomes the error that it was."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONUTF8": "1"},
            capture_output=True,
            timeout=300,
        )
        if done.returncode == 0:
            assert done.stderr == b"", done.stderr
            return done.stdout.decode()
        (line,) = done.stderr.decode().splitlines()
        assert done.returncode == 2 and line.startswith("error: "), line
        raise UserError(line)

    return run


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
def trained(run, images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    arguments = [f"--config.dataset.name=folder:{images}", f"--workdir={workdir}"]
    assert tried("main.py", lambda: run("main.py", *TINY, *arguments)) is not None
    return workdir


def test_a_folder_with_names_that_are_no_text(run, images, trained):
    assert "accuracy" in json.loads((trained / "results_test.json").read_text())
    assert tried("main.py", lambda: run("-m", "eanet", "prepare", f"folder:{images}"))


def test_a_damaged_image_among_them(run, images, tmp_path):
    shutil.copytree(images, tmp_path / "images")
    path = tmp_path / "images" / "train" / "a" / "odd.tif"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path, compression="tiff_lzw")
    path.write_bytes(path.read_bytes().replace(b"\x80", b"\xff"))
    command = ["main.py", *TINY, f"--config.dataset.name=folder:{tmp_path}/images"]
    tried("main.py", lambda: run(*command, f"--workdir={tmp_path}/run"))


def test_files_of_a_run_that_are_damaged(run, trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    (workdir / "metrics.jsonl").write_bytes(b"\xff\n[" + b"[" * 100_000)
    assert tried("main.py", lambda: run("main.py", "--mode=eval", f"--workdir={workdir}"))
    (workdir / "results_val.json").write_bytes(b"[" * 100_000)
    assert tried("main.py", lambda: run("main.py", "--mode=eval", f"--workdir={workdir}")) is None
    (workdir / "config.json").write_bytes(b'{"model": ' * 100_000)
    assert tried("main.py", lambda: run("main.py", "--mode=eval", f"--workdir={workdir}")) is None


@pytest.mark.parametrize(
    "arguments",
    [
        [f"--workdir=/tmp/{'x' * 300}"],
        ["--config.model.embed_dim=65536", "--config.model.num_heads=65536"],
        ["--config.dataset.name=\x1b[31m\n\udcff"],
    ],
    ids=["name", "memory", "text"],
)
def test_impossible_arguments(run, tmp_path, arguments):
    command = ["main.py", *TINY, f"--workdir={tmp_path}/run", *arguments]
    assert tried("main.py", lambda: run(*command)) is None
    assert not (tmp_path / "run").exists()
