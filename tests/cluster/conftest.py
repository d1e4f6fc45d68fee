"""What processes that tests start find in their environment."""

import pytest

from tests.helpers.command_line import ROOT, environment
from tests.helpers.compiler import QUICKLY_COMPILED


@pytest.fixture
def one_device_each(monkeypatch):
    """Processes that are started have one device, so that two have those of `trained`."""
    monkeypatch.chdir(ROOT)
    for name, value in (environment() | {"JAX_NUM_CPU_DEVICES": "1"}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def compiled_quickly(one_device_each, monkeypatch):
    """They compile as the tests' own process does, to the same bytes."""
    for name, value in QUICKLY_COMPILED.items():
        monkeypatch.setenv(name, value)
