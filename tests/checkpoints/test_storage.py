"""A checkpoint can be read wherever it was written, whatever the path is called."""

import os
import re
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eanet.checkpoints import storage
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError
from tests.helpers.fuzz import cases

STATE = {"params": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "step": jnp.int32(7)}

# As the system has them: any bytes but "/" and zero.
NAMES = st.one_of(
    st.text(st.sampled_from("[]{}()*?!\\~$%#:;,'\"<>|&@=+-. aé0"), min_size=1, max_size=12),
    st.sampled_from(["gs:", "s3:", "file:", "[a]", "[!a]", "**", "~", "\\", "C:", " ", "\n"]),
    st.binary(min_size=1, max_size=12).map(os.fsdecode),
).filter(lambda name: name not in (".", "..") and not {"/", "\0"} & set(name))


@cases(few=15, share=0.5)
@given(st.lists(NAMES, min_size=1, max_size=3))
@example(["[a]", "run"])
@example(["a\\b"])
@example(["gs:", "bucket"])
@example(["a\udcffb"])
def test_any_path(names):
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory, *names)
        workdir.mkdir(parents=True)
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            checkpoints.save(7, STATE, val_accuracy=0.5)
            checkpoints.wait()
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            for restored in (
                checkpoints.restore("best", STATE)[1],
                checkpoints.restore_newest(STATE)[1],
            ):
                np.testing.assert_array_equal(restored["params"]["kernel"], [[0, 1, 2], [3, 4, 5]])
                assert restored["step"] == 7


def test_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "[a]").mkdir()
    monkeypatch.chdir(tmp_path / "[a]")
    with Checkpoints("checkpoints") as checkpoints:
        checkpoints.save(7, STATE)
        assert checkpoints.restore("latest", STATE)[0] == 7
    assert (tmp_path / "[a]" / "checkpoints" / "7").is_dir()


def test_what_cannot_be_read_back_is_found_by_the_first_save(tmp_path, monkeypatch):
    """Here as Orbax treats such a path when it is given it."""
    monkeypatch.setattr(storage, "_PLAIN", re.compile(".*"))
    (tmp_path / "[a]").mkdir()
    said = []
    checkpoints = Checkpoints(tmp_path / "[a]" / "checkpoints", log=said.append)
    checkpoints.save(7, STATE)
    with pytest.raises(UserError, match="step 7 could not be saved"):
        checkpoints.close()
    assert len(said) == 1 and not list((tmp_path / "[a]" / "checkpoints").iterdir())


def test_other_bytes_than_were_written_are_found_by_the_first_save(tmp_path, monkeypatch):
    load = storage.load
    monkeypatch.setattr(storage, "load", lambda *a: load(*a) | {"step": np.array(8, np.int32)})
    checkpoints = Checkpoints(tmp_path / "checkpoints", log=lambda line: None)
    checkpoints.save(7, STATE)
    with pytest.raises(UserError, match="step was not read back as it was written"):
        checkpoints.close()


def test_a_temporary_directory_that_does_not_help_is_said(tmp_path, monkeypatch):
    (tmp_path / "[a]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[a]"))
    checkpoints = Checkpoints(tmp_path / "[a]" / "checkpoints", log=lambda line: None)
    checkpoints.save(7, STATE)
    with pytest.raises(UserError, match="set TMPDIR to a directory of letters"):
        checkpoints.close()
