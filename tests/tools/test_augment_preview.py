import numpy as np
import pytest

from eanet.errors import UserError
from eanet.tools import augment_preview


@pytest.mark.parametrize(("channels", "switches"), [(1, {"flip": True}), (3, {"cutmix": 1.0})])
def test_picture_is_written_whole(tmp_path, channels, switches):
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, channels))
    figure = augment_preview.draw_batch(
        images,
        np.arange(2),
        ["apple", "bear"],
        np.full(channels, 120.0),
        np.full(channels, 60.0),
        switches,
        seed=0,
    )
    assert len(figure.axes) == 2 * (augment_preview.DRAWS + 1)
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.squeeze(images[0]), drawn, atol=1.01)
    path = tmp_path / "augment.png"
    augment_preview.save(figure, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["augment.png"]
    for wrong in (tmp_path / "missing" / "a.png", tmp_path / "a.pkl"):
        with pytest.raises(UserError, match="--out"):
            augment_preview.save(figure, wrong)
