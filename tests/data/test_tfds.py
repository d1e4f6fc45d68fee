import contextlib
import fcntl
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eanet.data import base, survey, tfds, tfds_files, workers
from eanet.data.load import load_dataset, load_part
from eanet.data.stored import StoredImages, ahead
from eanet.errors import NeedsTensorFlow, UserError, exit_code
from eanet.workdir.model_record import ModelRecord
from tests.helpers.data_fixtures import random_images, write_prepared

FORMS = ("array_record", "tfrecord")
CALLERS_DATA_DIR = os.environ.get("TFDS_DATA_DIR", "")
TRAIN, TEST = random_images(11, seed=1), random_images(7, seed=2)


@pytest.fixture(autouse=True)
def own_directories(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def load(name, root, **options):
    return load_dataset(
        name, data_dir=root, **{"val_fraction": 0, "log": lambda line: None} | options
    )


def refused(name, root, *words, **options):
    with pytest.raises(UserError) as caught:
        load(name, root, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5, 1), (6, 5, 4)])
def test_both_forms_arrive_exactly_and_in_order(form, shape, tmp_path):
    splits = {"train": random_images(11, shape), "test": random_images(7, shape)}
    write_prepared(tmp_path, form, splits)
    shapes = load("shapes", tmp_path)
    assert shapes.class_names == ("circle", "square", "star") and shapes.image_shape == shape
    for part, (images, labels) in splits.items():
        np.testing.assert_array_equal(getattr(shapes, part).images, images)
        np.testing.assert_array_equal(getattr(shapes, part).labels, labels)
    assert "tensorflow" not in sys.modules


def test_validation_is_the_held_out_split_where_there_is_no_test(tmp_path):
    write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "validation": TEST})
    shapes = load("shapes", tmp_path, val_fraction=0.2)
    np.testing.assert_array_equal(shapes.test.labels, TEST[1])
    assert (len(shapes.train), len(shapes.val)) == (8, 3)


def test_own_validation_is_kept(tmp_path):
    write_prepared(
        tmp_path, "tfrecord", {"train": TRAIN, "validation": TEST, "test": random_images(3)}
    )
    shapes = load("shapes", tmp_path, val_fraction=0.5)
    assert (len(shapes.train), len(shapes.val), len(shapes.test)) == (11, 7, 3)


def test_versions_configs_and_ways_to_name_the_directory(tmp_path, monkeypatch):
    def prepared(name, version, count):
        splits = {"train": random_images(count), "test": TEST}
        return write_prepared(tmp_path, "tfrecord", splits, name=name, version=version)

    prepared("shapes", "1.9.0", 4)
    newest = prepared("shapes", "1.10.0", 5)
    prepared("forms/big", "1.0.0", 6)
    for name, root, count in [
        ("shapes", tmp_path, 5),
        ("shapes:1.9.0", tmp_path, 4),
        ("shapes:1.*.*", tmp_path, 5),
        ("shapes", tmp_path / "shapes", 5),
        ("shapes", newest, 5),
    ]:
        assert len(load(name, root).train) == count
    folder = tfds._prepared_folder
    big = tmp_path / "forms" / "big" / "1.0.0"
    assert folder(tfds.Request.parse("forms"), tmp_path) == big
    assert folder(tfds.Request.parse("forms/big:1.0.0"), tmp_path) == big
    assert folder(tfds.Request.parse("forms/small"), tmp_path) is None
    assert folder(tfds.Request.parse("shapes:2.0.0"), tmp_path) is None
    # A directory of one version is that version and its config, and no other.
    for name, root in [
        ("shapes:1.9.0", newest),
        ("shapes:2.0.0", newest),
        ("shapes/big", newest),
        ("forms/small", big),
        ("forms/big:2.0.0", big),
    ]:
        assert folder(tfds.Request.parse(name), root) is None, name
    assert folder(tfds.Request.parse("forms/big"), big) == big
    assert folder(tfds.Request.parse("shapes:1.*.*"), newest) == newest
    prepared("forms/small", "1.0.0", 6)
    refused("forms", tmp_path, "forms/big, forms/small")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(load("shapes", None).train) == 5


def test_a_directory_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST}, version="1.0.0")

    def forbidden(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", forbidden)
    refused("shapes", tmp_path, "cannot be read: Permission denied")


def test_a_changed_directory_is_read_again(tmp_path):
    write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST}, version="1.0.0")
    lines = []
    load("shapes", tmp_path, log=lines.append)
    write_prepared(tmp_path, "tfrecord", {"train": TEST, "test": TEST}, version="1.0.1")
    assert len(load("shapes", tmp_path, log=lines.append).train) == 7
    assert "out of date" in lines[-1]


def edit(path: Path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", ["truncate", "remove", "garbage", "count"])
def test_a_damaged_directory_is_one_line(form, damage, tmp_path):
    folder = write_prepared(tmp_path, form, {"train": TRAIN, "test": TEST})
    path = folder / f"shapes-train.{form}-00001-of-00002"
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "remove":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(
            bytes(np.random.default_rng(0).integers(0, 256, path.stat().st_size, "u1"))
        )
    else:
        edit(
            folder / "dataset_info.json",
            lambda info: info["splits"][0].update(shardLengths=["5", "7"]),
        )
    refused("shapes", tmp_path, folder)
    assert not list((tmp_path / "xdg").rglob("*.npy"))


def test_damaged_info_is_one_line(tmp_path):
    folder = write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})
    (folder / "dataset_info.json").write_text("{")
    refused("shapes", tmp_path, "dataset_info.json")


EVIL = "antigravity.Image"
TFDS = "tensorflow_datasets.core.features"


@pytest.mark.parametrize("name", ["image", "label"])
@pytest.mark.parametrize(
    "change",
    [
        lambda feature: feature.update(pythonClassName=EVIL),
        lambda feature: feature.update(python_class_name=feature.pop("pythonClassName")),
        lambda feature: feature.update(type=EVIL, content={}, pythonClassName=None),
        lambda feature: feature.update(pythonClassName=f"{TFDS}.image_feature.Video"),
        lambda feature: feature.update(pythonClassName=[EVIL]),
    ],
)
def test_features_of_another_class_are_refused(name, change, tmp_path):
    folder = write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})
    edit(
        folder / "features.json",
        lambda root: change(root["featuresDict"]["features"][name]),
    )
    refused("shapes", tmp_path, "features.json", name)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "other",
    [
        {"pythonClassName": EVIL, "text": {}},
        {"python_class_name": EVIL, "text": {}},
        {"type": EVIL, "content": {}},
        {"type": EVIL, "proto_cls": "antigravity.Feature", "content": "{}"},
        {
            "pythonClassName": f"{TFDS}.sequence_feature.Sequence",
            "sequence": {"feature": {"type": EVIL}},
        },
    ],
)
def test_no_class_is_imported_because_a_file_names_it(other, tmp_path):
    """Features that are not needed may be of any class: they are not looked at."""
    folder = write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})

    def add(root):
        root["featuresDict"]["features"]["other"] = other
        root["pythonClassName"] = EVIL

    edit(folder / "features.json", add)
    path = folder / "features.json"
    path.write_text(path.read_text().replace("antigravity", "\\u0061ntigravity"))
    assert len(load("shapes", tmp_path).train) == 11
    assert "antigravity" not in sys.modules


def test_features_in_the_form_of_old_versions(tmp_path):
    folder = write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})
    image = {"shape": [6, 5, 3], "dtype": "uint8", "encoding_format": "png"}
    content = {
        "image": {"type": f"{TFDS}.image_feature.Image", "content": image},
        "label": {"type": f"{TFDS}.class_label_feature.ClassLabel", "content": {"num_classes": 3}},
    }
    root = {"type": f"{TFDS}.features_dict.FeaturesDict", "content": content}
    (folder / "features.json").write_text(json.dumps(root))
    np.testing.assert_array_equal(load("shapes", tmp_path).train.images, TRAIN[0])


@pytest.mark.parametrize(
    "template", ["../{SPLIT}", "/tmp/{SPLIT}-{SHARD_INDEX}", "{SPLIT.__class__}", "{X}"]
)
def test_files_outside_the_directory_are_not_read(template, tmp_path):
    folder = write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})
    edit(
        folder / "dataset_info.json",
        lambda info: info["splits"][0].update(filepathTemplate=template),
    )
    refused("shapes", tmp_path, folder, "prepare it again")


def test_names_of_files_follow_their_template(tmp_path):
    folder = write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})
    for path in list(folder.glob("shapes-train*")):
        (folder / "parts").mkdir(exist_ok=True)
        path.rename(folder / "parts" / f"{path.name.split('-')[2]}.train")
    edit(
        folder / "dataset_info.json",
        lambda info: info["splits"][0].update(filepathTemplate="parts/{SHARD_INDEX}.{SPLIT}"),
    )
    np.testing.assert_array_equal(load("shapes", tmp_path).train.images, TRAIN[0])


@pytest.mark.parametrize("form", FORMS)
def test_a_pipe_in_place_of_a_file_is_refused(form, tmp_path):
    folder = write_prepared(tmp_path, form, {"train": TRAIN, "test": TEST})
    for name in (f"shapes-train.{form}-00000-of-00002", "label.labels.txt", "features.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refused("shapes", tmp_path, "not a regular file")


def test_sets_of_another_kind_are_refused(tmp_path):
    folder = write_prepared(tmp_path, "tfrecord", {"test": TEST})
    refused("shapes", tmp_path, "needs a train split")
    edit(
        folder / "features.json",
        lambda info: info["featuresDict"]["features"].pop("label"),
    )
    os.utime(folder / "features.json")
    refused("shapes", tmp_path, "no image and class label")


UNLABELLED = (TEST[0], np.full(7, -1))
NAMES = ("circle", "square", "star")


def part(name, root, part, **options):
    return load_part(
        name, part, class_names=NAMES, image_shape=(6, 5, 3), data_dir=root,
        **{"log": lambda line: None} | options,
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("streaming", [False, True])
def test_images_without_labels_are_refused_before_any_is_decoded(
    form, streaming, tmp_path, monkeypatch
):
    monkeypatch.setattr(tfds_files, "_decode", None)
    monkeypatch.setattr(survey, "_look_at_all", None)
    write_prepared(tmp_path, form, {"train": TRAIN, "test": UNLABELLED})
    refused("shapes", tmp_path, "its test split has no labels, and", streaming=streaming)
    write_prepared(tmp_path / "train", form, {"train": UNLABELLED, "test": TEST})
    refused("shapes", tmp_path / "train", "its train split has no labels", streaming=streaming)


def test_a_label_that_is_none_among_others_is_refused(tmp_path):
    labels = np.append(TEST[1][:-1], -1)
    write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": (TEST[0], labels)})
    refused("shapes", tmp_path, "test has labels outside 0..2")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("streaming", [False, True])
def test_validation_is_tested_on_where_the_test_split_has_no_labels(form, streaming, tmp_path):
    """As of imagenet2012; validation is then held out of train, which is said and recorded."""
    own = random_images(5, seed=3)
    splits = {"train": TRAIN, "validation": own, "test": UNLABELLED}
    folder = write_prepared(tmp_path, form, splits)
    for _ in range(2):  # the second time from the cache
        lines = []
        shapes = load("shapes", tmp_path, val_fraction=0.2, streaming=streaming, log=lines.append)
        said = [line for line in lines if "tested on: its test split has no labels" in line]
        assert len(said) == 1
        assert (len(shapes.train), len(shapes.val), len(shapes.test)) == (8, 3, 5)
        np.testing.assert_array_equal(np.asarray(shapes.test.images), own[0])
        record = ModelRecord.of(shapes).data
        assert record.tested_on == "validation" and record.holds_out
    alone = part("shapes", tmp_path, "test", streaming=streaming)
    np.testing.assert_array_equal(np.asarray(alone.split.images), own[0])
    assert alone.fingerprint == shapes.fingerprints["test"]
    assert len(part("shapes", tmp_path, "val").split) == 5
    for path in folder.glob("*-t*"):  # of train and test
        path.unlink()
    assert len(part("shapes", tmp_path, "val", streaming=True).split) == 5


def test_a_copy_of_before_that_rule_is_not_used(tmp_path, monkeypatch):
    splits = {"train": TRAIN, "validation": random_images(5), "test": UNLABELLED}
    write_prepared(tmp_path, "tfrecord", splits)
    for module in (tfds, tfds_files):
        monkeypatch.setattr(module, "validation_is_test", lambda folder, only: None)
    monkeypatch.setattr(tfds_files, "_first_label", lambda form, shards: 0)
    refused("shapes", tmp_path, "test has labels outside 0..2")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert len(load("shapes", tmp_path).test) == 5


def test_a_set_with_labels_keeps_its_copy_in_the_cache(tmp_path):
    """The names of copies are those of version 0.1."""
    write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "validation": TEST, "test": TEST})
    source = tfds.prepared_source(tfds.Request.parse("shapes"), tmp_path, base.Wanted())
    assert source.identity == f"tfds:{tmp_path}/shapes:shapes"
    assert source.notes == () and source.tested_on == "test"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "asked"), [("test", "test"), ("validation", "val"), ("validation", "test")]
)
def test_to_evaluate_the_asked_split_alone_is_needed(streaming, name, asked, tmp_path):
    write_prepared(tmp_path, "tfrecord", {name: TEST})
    found = part("shapes", tmp_path, asked, streaming=streaming).split
    np.testing.assert_array_equal(np.asarray(found.images), TEST[0])
    np.testing.assert_array_equal(found.labels, TEST[1])
    with pytest.raises(UserError, match=f"needs a train split; it has {name}"):
        part("shapes", tmp_path, "train")
    refused("shapes", tmp_path, f"needs a train split; it has {name}; to evaluate on it alone")


def test_a_split_that_is_not_there_is_refused(tmp_path):
    write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})
    with pytest.raises(UserError, match="needs a val split; it has train, test"):
        part("shapes", tmp_path, "val")


def test_more_than_memory_is_refused(tmp_path, monkeypatch):
    write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})
    monkeypatch.setattr(base, "physical_memory", lambda: 1000)
    refused("shapes", tmp_path, "half", "dataset.streaming", streaming=False)


def test_the_splits_together_are_what_memory_holds(tmp_path, monkeypatch):
    write_prepared(tmp_path, "tfrecord", {"train": TRAIN, "test": TEST})
    size = 6 * 5 * 3
    for images, kind in ((18, np.ndarray), (17, StoredImages)):
        monkeypatch.setattr(base, "physical_memory", lambda: 2 * size * images)  # noqa: B023
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(images)))
        assert isinstance(load("shapes", tmp_path).test.images, kind)
    refused("shapes", tmp_path, "18 images of 6x5x3 need", streaming=False)
    # The copies of another size, of a source that does not resize by itself.
    monkeypatch.setattr(base, "physical_memory", lambda: 2 * 40 * 40 * 1700)
    with pytest.raises(UserError, match="digits: 1797 images of 40x40x1 need"):
        load_dataset("digits", image_size=(40, 40), log=lambda line: None)


def test_one_image_that_memory_does_not_hold_is_refused(tmp_path, monkeypatch):
    large = np.zeros((1100, 1000, 3), np.uint8)
    images = [large, *random_images(2)[0]]
    write_prepared(tmp_path, "tfrecord", {"train": (images, [0, 1, 2]), "test": TEST})
    options = {"image_size": (4, 4), "streaming": False}
    monkeypatch.setattr(base, "physical_memory", lambda: 2 * large.size)
    assert len(load("shapes", tmp_path, **options).train) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(base, "physical_memory", lambda: 2 * large.size - 1)
    refused("shapes", tmp_path, "1 images of 1100x1000x3", **options)


@pytest.mark.parametrize("form", FORMS)
def test_as_many_decode_as_the_stored_sizes_allow(form, tmp_path, monkeypatch):
    """Of the recorded size, or that of a few images, with half of it all for larger ones."""
    mixed = [*random_images(9, (40, 20, 3))[0], *random_images(9, (10, 50, 3))[0]]
    labels = np.arange(18) % 3
    splits = {"train": (mixed, labels), "test": (mixed, labels)}
    write_prepared(tmp_path / "mixed", form, splits, shape=(-1, -1, 3))
    write_prepared(tmp_path / "same", form, {"train": TRAIN, "test": TEST})
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(base, "physical_memory", lambda: 2 * 6 * 32 * 40 * 50)  # 3 of these twice
    for name, largest, larger, count in (
        ("mixed", (40, 50), True, 3),
        ("same", (6, 5), False, 8),
    ):
        wanted = base.Wanted(image_size=(4, 4))
        folder = tmp_path / name / "shapes" / "1.0.0"
        recipe, _ = tfds_files.storage(folder, wanted).recipe()
        assert (recipe.largest, recipe.larger) == (largest, larger)
        assert workers.Workers(recipe)._count == count


def test_few_images_tell_how_large_they_are_whatever_the_number_of_files(tmp_path):
    for files in (1, 3, 70, 200):
        images, labels = random_images(201)
        folder = write_prepared(tmp_path / str(files), "tfrecord", {"train": (images, labels)},
                                shards=files)  # fmt: skip
        form, shards = tfds_files._shards(folder)
        found = tfds_files._firsts(form, shards["train"], 64)
        assert 50 <= len(set(found)) < 128


@pytest.mark.parametrize("streaming", [False, True])
def test_of_images_larger_than_was_seen_one_is_decoded_at_a_time(streaming, tmp_path, monkeypatch):
    """They are right too, in the threads of this process and in workers."""
    monkeypatch.setattr(tfds_files, "_SAMPLE", 1)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    images = [np.full((6, 5, 3), 9, np.uint8), *random_images(80, (30, 20, 3))[0]]
    labels = np.arange(81) % 3
    write_prepared(tmp_path, "tfrecord", {"train": (images, labels), "test": (images, labels)},
                   shape=(-1, -1, 3))  # fmt: skip
    at_once, most, turn = [], [], tfds_files.turn.turn

    @contextlib.contextmanager
    def counted():
        with turn():
            at_once.append(None)
            most.append(len(at_once))
            yield
            at_once.pop()

    monkeypatch.setattr(tfds_files.turn, "turn", counted)
    shapes = load("shapes", tmp_path, image_size=(3, 3), streaming=streaming)
    expected = [
        Image.fromarray(image).resize((3, 3), Image.Resampling.BILINEAR) for image in images
    ]
    found = next(ahead(shapes.train.images, [slice(None)], 1))
    np.testing.assert_array_equal(found, np.array(expected))
    assert streaming or (len(most) == 160 and max(most) == 1)


def test_workers_wait_for_their_turn_with_a_larger_image(tmp_path, monkeypatch):
    images = [np.zeros((6, 5, 3), np.uint8), np.full((30, 20, 3), 7, np.uint8)]
    folder = write_prepared(tmp_path, "tfrecord", {"train": (images, [0, 1])}, shape=(-1, -1, 3))
    monkeypatch.setattr(tfds_files, "_SAMPLE", 1)
    stored = tfds_files.storage(folder, base.Wanted("train", image_size=(3, 3)))
    (recipe, _), small, large = stored.recipe(), *stored.references()["train"]
    pool, out = workers.Workers(recipe, 1), np.empty((1, 3, 3, 3), np.uint8)
    with tempfile.TemporaryFile() as file, pool.running():
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda: file)
        fcntl.lockf(file, fcntl.LOCK_EX)
        pool.submit("pixels", [small], out).result()
        waiting = pool.submit("pixels", [large], out)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        fcntl.lockf(file, fcntl.LOCK_UN)
        waiting.result()
    assert (out == 7).all()


def test_pixels_are_taken_as_they_stand_in_a_record(tmp_path):
    """Neither turned by an orientation nor laid over white; four channels stay as they are."""
    wide = np.zeros((6, 8, 3), np.uint8)
    wide[:, :4] = 200
    turned, clear = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(turned, "PNG", exif=exif)
    alpha = np.concatenate([wide, np.zeros((6, 8, 1), np.uint8)], axis=-1)
    Image.fromarray(alpha).save(clear, "PNG")
    records = [turned.getvalue(), clear.getvalue()]
    splits = {"train": (records, [0, 1]), "test": (records, [0, 1])}
    write_prepared(tmp_path / "three", "tfrecord", splits, shape=(6, 8, 3))
    np.testing.assert_array_equal(load("shapes", tmp_path / "three").train.images, [wide, wide])
    splits = {"train": ([alpha], [0]), "test": ([alpha], [0])}
    write_prepared(tmp_path / "four", "tfrecord", splits)
    np.testing.assert_array_equal(load("shapes", tmp_path / "four").train.images, [alpha])


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("minst", "mnist"), ("cifar-100", "cifar100"), ("CIFAR100", "cifar100"), ("digit", "digits")],
)
def test_a_misspelt_name_names_the_nearest(typo, meant, tmp_path):
    refused(typo, tmp_path, repr(meant))


def test_without_tensorflow_the_ways_out_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(
        "mnist", tmp_path, f"mnist is not prepared in {tmp_path}", "TensorFlow", "not installed",
        "make prepare DATASET=mnist", "requirements-prepare.txt", "dataset.data_dir",
        "--config=configs/eanet_digits.py",
    )  # fmt: skip
    with pytest.raises(NeedsTensorFlow) as caught:
        load("mnist", tmp_path)
    assert exit_code(caught.value) == 2  # of all but the tool that prepares


def test_tensorflow_prepares_in_another_process(tmp_path, monkeypatch):
    """The child is replaced by one that does what TFDS would do."""
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.helpers.data_fixtures import random_images, write_prepared
name, data_dir = sys.argv[1:]
splits = {{"train": random_images(4), "test": random_images(2)}}
write_prepared(Path(data_dir), "array_record", splits, name=name)
"""
    monkeypatch.setattr(tfds, "_PREPARE", program)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert len(load("mnist", tmp_path).train) == 4


def test_a_preparation_that_fails_gives_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "_PREPARE", "print('noise'); print('no network'); exit(1)")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    refused("mnist", tmp_path, "(no network)")


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(CALLERS_DATA_DIR or "/nowhere", "cifar100").is_dir(),
    reason="needs CIFAR-100 prepared in TFDS_DATA_DIR",
)
def test_cifar100_matches_tfds_own_decoding(tmp_path):
    """In a process of its own: TFDS_DATA_DIR as the caller has it, a fresh cache."""
    program = """
import os, sys
import numpy as np
from eanet.data.load import load_dataset
load_dataset("cifar100")
cifar = load_dataset("cifar100", val_fraction=0.2, log=lambda line: sys.exit("not cached"))
assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (40000, 10000, 10000)
import tensorflow_datasets as tfds
source = tfds.data_source("cifar100", split="train")
for part, offset in ((cifar.train, 0), (cifar.val, 40000)):
    for i in range(0, len(part), 997):
        np.testing.assert_array_equal(part.images[i], source[offset + i]["image"])
        assert part.labels[i] == source[offset + i]["label"]
names = tfds.builder("cifar100").info.features["label"].names
assert cifar.class_names == tuple(names)
np.testing.assert_allclose(cifar.mean, [129.3, 124.1, 112.4], atol=0.5)
np.testing.assert_allclose(cifar.std, [68.2, 65.4, 70.4], atol=0.5)
assert "tensorflow" not in sys.modules
"""
    environment = {**os.environ, "TFDS_DATA_DIR": CALLERS_DATA_DIR}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
