import numpy as np
import pytest

from eanet.data.load import Dataset, Split
from eanet.errors import UserError
from eanet.tools import augment_preview

UNMIXED = ("--config=configs/testing.py", "--config.augment.mixup=0")


@pytest.mark.parametrize(
    ("channels", "augmentation", "title"),
    [
        (1, {"flip": True, "zoom": 0.0, "mix_probability": 1.0}, "flip"),
        (
            3,
            {"trivial_augment": True, "cutmix": 1.0, "mix_probability": 0.5},
            "trivial augment, cutmix 1, mix probability 0.5",
        ),
    ],
)
def test_originals_above_what_becomes_of_them(channels, augmentation, title):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, channels), dtype=np.uint8)
    examples = Split(images, np.arange(2))
    statistics = np.full(channels, 120, np.float32), np.full(channels, 60, np.float32)
    dataset = Dataset("", examples, examples, examples, ("apple", "bear"), *statistics)
    figure = augment_preview.draw(examples, dataset, augmentation, seed=0)
    assert len(figure.axes) == 2 * (augment_preview.DRAWS + 1)
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.squeeze(images[0]), drawn, atol=1.01)
    assert " ".join(figure.get_suptitle().split()) == f"Top row: as they are; below: {title}"
    assert [axis.get_title() for axis in figure.axes[:2]] == ["apple", "bear"]


def test_the_command_writes_a_picture(tmp_path, capsys):
    augment_preview.main([*UNMIXED, f"--out={tmp_path / 'augment.png'}"], "preview")
    assert (tmp_path / "augment.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["augment.png"]
    assert "16 images of digits" in capsys.readouterr().out


@pytest.mark.parametrize("out", ["file/a.png", "a.pkl"])
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path, out, monkeypatch):
    monkeypatch.setattr(augment_preview, "load_dataset", lambda *_, **__: pytest.fail("too late"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=out):
        augment_preview.main([*UNMIXED, f"--out={tmp_path / out}"], "preview")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
