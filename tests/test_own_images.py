"""A folder of photographs as people have them, from the first training to a second one."""

import dataclasses
import re

import numpy as np
import pytest

import eanet
import train
from eanet.data.load import load_dataset
from eanet.errors import UserError
from eanet.inference.predict import predict
from eanet.training.run import set_up
from eanet.workdir import model_record
from tests.helpers import main_job, plain
from tests.helpers.photographs import write_photographs


def config_of(root, **dataset):
    config = plain.get_config()
    config.batch_size, config.model.depth = 16, 1
    config.dataset.update(name=f"folder:{root}", image_size=(16, 16), resize="crop", **dataset)
    config.dataset.class_weights = "balanced"
    return config


@pytest.mark.slow
def test_trained_stopped_resumed_evaluated_asked_and_tuned(tmp_path, undrawn, capsys):
    photographs = tmp_path / "photographs"
    paths = write_photographs(photographs, {"china": 60, "flower": 24, "portrait": 12})
    (photographs / "Thumbs.db").write_text("of the system")
    (photographs / "china" / "cut.jpg").write_bytes(paths[0].read_bytes()[:200])
    config = config_of(photographs, on_bad_image="skip")
    results = main_job.stopped_and_resumed(config, tmp_path)
    said = capsys.readouterr().out
    assert re.search(
        r"^classes  china: \d+, flower: \d+, portrait: \d+; weights of the loss 0\.", said, re.M
    )
    assert (
        "left out, as it cannot be read: 1 of the files" in said
        and "cut.jpg" in said
        and "Thumbs.db" in said
    )
    assert "balanced accuracy" in said
    workdir = tmp_path / "stopped"
    record = model_record.read(workdir)
    assert record.resize == "crop" and record.data.skipped == 1
    assert record.class_names == ("china", "flower", "portrait")

    # What was tested is what prediction makes of the files: one way of resizing.
    dataset = load_dataset(seed=config.seed, log=lambda _: None, **config.dataset)
    model = eanet.load(workdir)
    by_pixels = {image.tobytes(): p for image, p in zip(
        dataset.test.images, model.predict(dataset.test.images), strict=True)}  # fmt: skip
    answers = model.predict(paths)
    shared = [p for p in answers if any(np.array_equal(p, q) for q in by_pixels.values())]
    assert len(shared) >= len(dataset.test) == results["num_examples"] == 18
    predict(workdir, [str(photographs)], checkpoint="best", resize=None, top=None,
            out=tmp_path / "predictions.jsonl", strict=False)  # fmt: skip
    assert "96 of 97 images were resized to 16×16 (crop)" in capsys.readouterr().out

    # A run keeps its data: no more, no fewer, and the same ones held out.
    (photographs / "china" / "cut.jpg").write_bytes(paths[0].read_bytes())
    with pytest.raises(UserError, match=r"test has 19 images instead of 18"):
        train.train(None, workdir)

    # The same with one class less, by a table, from what was learned.
    table = tmp_path / "photographs.csv"
    rows = [f"photographs/{path.relative_to(photographs)},{path.relative_to(photographs).parts[0]}"
            for path in paths if "portrait" not in path.parts]  # fmt: skip
    table.write_text("\n".join(["path,label", *rows]))
    tuned = config_of(table)
    tuned.init_from = str(workdir)
    train.train(tuned, tmp_path / "tuned")
    assert eanet.load(tmp_path / "tuned").class_names == ("china", "flower")


def test_a_patch_that_does_not_divide_is_told_before_the_data_is_read():
    config = config_of("/nowhere")
    config.model.patch_size = 5
    with pytest.raises(UserError, match=r"model\.patch_size=5 does not divide .* 16 pixels"):
        set_up(config, print)


def test_an_older_run_goes_on_with_the_order_of_its_classes(tmp_path):
    write_photographs(tmp_path / "x", {"china": 20, "flower": 10})
    for old, new in (("china", "10"), ("flower", "9")):
        (tmp_path / "x" / old).rename(tmp_path / "x" / new)
    config = config_of(tmp_path / "x")
    now = set_up(config, print)
    assert now.dataset.class_names == ("9", "10")
    record = dataclasses.replace(
        model_record.ModelRecord.of(now.dataset), class_names=("10", "9"), resize="refuse"
    )
    then = set_up(config, print, known=record)
    assert then.dataset.class_names == ("10", "9")
    np.testing.assert_array_equal(then.dataset.class_weights, now.dataset.class_weights[::-1])
