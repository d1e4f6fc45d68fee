"""The templates for clusters, by the linters that the machine has."""

import shutil
import subprocess
from pathlib import Path

import pytest

from eanet.errors import PEER_ENDED

FOLDER = Path(__file__).parents[1] / "docs/cluster"
LINTERS = {
    "slurm.sh": ["shellcheck"],
    "tpu_pod.sh": ["shellcheck"],
    "Dockerfile": ["hadolint"],
    "kubernetes.yaml": ["kubernetes-validate", "--strict"],
}


def test_every_template_has_a_linter():
    assert {path.name for path in FOLDER.iterdir()} == set(LINTERS)


@pytest.mark.parametrize("name", LINTERS)
def test_a_linter_finds_nothing(name):
    program, *options = LINTERS[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, *options, FOLDER / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_may_succeed_later_is_started_again_and_what_would_fail_again_is_not():
    for name in ("slurm.sh", "tpu_pod.sh"):
        assert f"{PEER_ENDED} | 134 | 137" in (FOLDER / name).read_text()
    assert "values: [2, 3]" in (FOLDER / "kubernetes.yaml").read_text()
