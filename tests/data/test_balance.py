"""Classes of unlike sizes: what is said of them, and what they weigh."""

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from eanet.data.base import Split
from eanet.data.load import Dataset, load_dataset
from eanet.data.splits import balanced_weights
from eanet.display.class_counts import counts_line, missing_lines
from tests.helpers.data_fixtures import write_folder

LABELS = np.repeat([0, 1, 3], [8, 1, 3])


def test_balanced_weights_are_those_of_scikit_learn():
    weights = balanced_weights(LABELS, 5)
    expected = compute_class_weight("balanced", classes=np.unique(LABELS), y=LABELS)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected, 1e-6)
    assert weights[2] == weights[4] == 0
    np.testing.assert_allclose(weights[LABELS].mean(), 1, 1e-6)


def test_weights_are_those_of_what_is_trained_on(tmp_path):
    write_folder(tmp_path, {"train/a": 9, "train/b": 3, "val/a": 1})
    weights = {}
    for how in ("none", "balanced"):
        dataset = load_dataset(
            f"folder:{tmp_path}", val_fraction=0.25, class_weights=how, log=lambda _: None
        )
        weights[how] = dataset.class_weights
    assert weights["none"] is None
    np.testing.assert_array_equal(weights["balanced"], balanced_weights(dataset.train.labels, 2))


def test_few_classes_are_all_named_and_many_by_their_extremes():
    names = ("cat", "dog", "eel", "fox")
    assert counts_line(names, LABELS) == "cat: 8, fox: 3, dog: 1, eel: 0"
    told = counts_line(names, LABELS, balanced_weights(LABELS, 4))
    assert told.endswith("eel: 0; weights of the loss 0.5 to 4")
    assert counts_line(names, np.arange(8) % 4) == "2 training images each"
    names = tuple(map(str, range(40)))
    labels = np.repeat(np.arange(40), np.arange(40) + 1000)
    told = counts_line(names, labels)
    assert told == "smallest 1,000 (0), median 1,019.5, largest 1,039 (39)"


def missing(names, *labels, val_split="random", held_out=True):
    """What is said of the labels of train, val and test."""
    none = np.ones(3, np.float32)
    splits = [Split(np.zeros((len(each), 1, 1, 3), np.uint8), np.array(each)) for each in labels]
    prints = {"train": "one", "val": "one" if held_out else "two", "test": "three"}
    return list(missing_lines(Dataset("x", *splits, names, none, none, prints), val_split))


def test_classes_without_images_are_one_line():
    names = ("a", "b", "c", "d")
    assert missing(names, range(4), range(4), LABELS) == ["1 class has no test images: c"]
    assert missing(names[:2], [0, 1], [], LABELS[:9]) == []
    assert missing(names[:2], [0], [1], [1, 0]) == [
        "1 class has no training images: b",
        "1 class has no validation images: a",
    ]
    many = tuple(map(str, range(9)))
    assert missing(many, LABELS, [], range(9)) == [
        "6 classes have no training images: 2, 4, 5, 6, 7 and 1 more"
    ]


def test_where_a_draw_by_class_would_help_it_is_named():
    (told,) = missing(("a", "b"), [0, 1], [0], [0, 1], val_split="last")
    assert told == (
        "1 class has no validation images: b; dataset.val_split=random takes some of each class"
    )
    for facts in ({"val_split": "random"}, {"val_split": "last", "held_out": False}):
        assert missing(("a", "b"), [0, 1], [0], [0, 1], **facts) == [told.partition(";")[0]]
