import pytest

import eanet
from tests.inference.conftest import copy  # noqa: F401


@pytest.fixture(scope="session")
def model(trained):
    return eanet.load(trained)
