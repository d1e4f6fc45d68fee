"""Set-up of all tests: two CPU devices, strict shapes, caches of their own, a quick compiler."""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

# What tests cache is no part of what the user has cached. All processes share it: those of
# pytest-xdist, and those that tests start, since many train the same small models.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="eanet-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{os.environ['XDG_CACHE_HOME']}/compiled"
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as eanet/host.py does

import jax
import jaxtyping
import pytest

# train.py and configs/ stand beside tests/.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.helpers.compiler import compile_quickly

# What a shell ignores for a job in the background, tests send.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

compile_quickly()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

# From here on, a wrong shape or type in a signature of these modules is an error.
jaxtyping.install_import_hook(
    [
        f"eanet.{name}"
        for name in (
            "augment.operations",
            "augment.pipeline",
            "augment.policies",
            "augment.transforms",
            "models",
            "prng",
            "training.step",
        )
    ],
    # As everywhere in Python, an int may stand for a float.
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


def pytest_collection_modifyitems(items):
    """Puts files with many slow tests first, so that no process has a long one left at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """Looks for cycles less often, and not in what was imported: tests trace much and end soon."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The workdir of a small run on the digits, which no test changes: it takes a copy."""
    import train
    from configs import testing

    workdir = tmp_path_factory.mktemp("trained") / "runs" / "eanet_digits"
    train.train(testing.get_config(), workdir)
    return workdir


@pytest.fixture
def undrawn(monkeypatch):
    """Evaluations write empty pictures."""
    from tests.helpers.pictures import leave_undrawn

    leave_undrawn(monkeypatch)


@pytest.fixture
def unchecked_types():
    """Lets wrong values through to the code itself, as they come from a user's config."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
