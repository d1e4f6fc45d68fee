"""`python -m eanet`: the list of tools, and what all of them do alike."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jax
import pytest

from eanet.__main__ import TOOLS, call
from eanet.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """JAX runs already."""
    monkeypatch.setattr("eanet.host.set_up", lambda: None)


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_a_tool_that_computes_refuses_other_mathematics(name, monkeypatch):
    monkeypatch.setattr(f"{TOOLS[name][0]}.main", lambda *_: 0)
    before = jax.config.jax_random_seed_offset
    jax.config.update("jax_random_seed_offset", 3)
    try:
        if name in ("prepare", "report", "compare", "launch"):
            assert call([name]) == 0
            return
        with pytest.raises(UserError, match="jax_random_seed_offset"):
            call([name])
    finally:
        jax.config.update("jax_random_seed_offset", before)


def test_the_list_starts_without_jax():
    """And without what else takes long to import."""
    code = "import sys, eanet.__main__ as m; m.call([]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *lines, modules = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(TOOLS)
    assert {"jax", "numpy", "absl"}.isdisjoint(modules.split())


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        call([name, "--help"])
    assert not stop.value.code
    assert capsys.readouterr().out.startswith(f"usage: python -m eanet {name} ")


NEEDED = {
    "launch": ["--processes=2"],
    "preview": ["--config=configs/testing.py"],
    "verify-resume": ["--config=configs/testing.py"],
    "import-keras": ["a.h5", "--workdir=w"],
    "export": ["w", "--format=safetensors"],
    "push": ["a", "b/c"],
    "export-keras": ["w", "a.weights.h5"],
}


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_refuses_an_unknown_option(name):
    with pytest.raises(UserError, match=rf"--depht.*{name} --help explains"):
        call([name, *NEEDED.get(name, ["a"]), "--depht=3"])


def test_an_unknown_tool_is_refused_with_the_nearest():
    done = subprocess.run(
        [sys.executable, "-m", "eanet", "verify-kera"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "'verify-kera'" in done.stderr and "verify-keras?" in done.stderr
    with pytest.raises(UserError, match=f"there are: {', '.join(TOOLS)}"):
        call(["\x1b[31m"])


def test_a_new_tool_is_a_module_and_a_line(monkeypatch):
    tool = ModuleType("toy_tool")
    tool.main = lambda arguments, prog: len(arguments) if prog == "python -m eanet toy" else None
    monkeypatch.setitem(sys.modules, "toy_tool", tool)
    monkeypatch.setitem(TOOLS, "toy", ("toy_tool", "count arguments"))
    assert call(["toy", "a", "b", "c"]) == 3
