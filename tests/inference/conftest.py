import shutil
from pathlib import Path

import pytest

import train
from eanet import config as config_lib

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The workdir of a small run on the digits, trained by `main.py`'s own function."""
    workdir = tmp_path_factory.mktemp("inference") / "runs" / "eanet_digits"
    config = config_lib.load(str(ROOT / "configs/testing.py"))
    train.train(config, workdir)
    return workdir


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(trained, tmp_path / "copy")
