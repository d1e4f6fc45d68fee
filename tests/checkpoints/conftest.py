import pytest

from eanet.checkpoints.manager import Checkpoints


@pytest.fixture
def lines():
    return []


@pytest.fixture
def checkpoints(tmp_path, lines):
    with Checkpoints(tmp_path / "checkpoints", log=lines.append) as checkpoints:
        yield checkpoints
