"""Files are decoded ahead of their use: in order, not too many, and whatever is wrong with one."""

import threading

import numpy as np
import pytest
from PIL import Image

from eanet.errors import UserError
from eanet.inference.decoding import decode_ahead
from eanet.workdir.model_record import ModelRecord

RECORD = ModelRecord(("a", "b"), (2, 3, 1), (0.0,), (1.0,))


@pytest.fixture
def files(tmp_path):
    """Paths, of which the pixels are their numbers; each third is broken, each fourth larger."""
    for number in range(60):
        path = tmp_path / f"{number}.png"
        size = (6, 4) if number % 4 == 0 else (3, 2)
        Image.new("L", size, number).save(path)
        if number % 3 == 0:
            path.write_bytes(path.read_bytes()[:-25])
    return [str(tmp_path / f"{number}.png") for number in range(60)]


def test_all_come_in_order(files):
    for number, (path, image) in enumerate(decode_ahead(RECORD, "crop", files, most=7)):
        assert path == files[number]
        if number % 3 == 0:
            assert isinstance(image, UserError) and f"/{number}.png" in str(image)
        else:
            np.testing.assert_array_equal(image.values, np.full((2, 3, 1), number, np.uint8))
            assert image.resized == (number % 4 == 0)


def test_no_more_are_asked_for_than_may_exist(files):
    asked, threads = [], threading.active_count()
    decoded = decode_ahead(RECORD, "crop", map(lambda p: asked.append(p) or p, files), most=7)
    for taken in range(1, 50):
        next(decoded)
        assert len(asked) == taken + 6
    decoded.close()
    assert threading.active_count() == threads
