"""The files of a data set that TensorFlow Datasets has prepared, read by their documented forms.

TFDS itself would import every class that `features.json` names. Here only plain values of two
features are taken from it, whatever else it holds. Both forms on users' disks are read,
`array_record` and TFRecord, each of serialized `tf.train.Example`s.
"""

import contextlib
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eanet import files
from eanet.data import images as images_lib
from eanet.data import record_files
from eanet.data import resize as resize_lib
from eanet.data.base import (
    Decoded,
    Recipe,
    Split,
    Storage,
    Wanted,
    budget,
    check_memory,
    empty_images,
)
from eanet.data.record_files import References
from eanet.data.splits import split_test
from eanet.errors import UserError

_ADVICE = "prepare it again"
_EXAMPLES_AT_ONCE = 1024
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MOST_CLASSES = 1_000_000
# By channels: how Pillow names them.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_CLASSES = {"image": "image_feature.Image", "label": "class_label_feature.ClassLabel"}


def read_info(folder: Path) -> dict[str, Any]:
    """The content of `dataset_info.json`, empty where there is none."""
    return files.read_record(folder / "dataset_info.json", _ADVICE) or {}


def is_divided(folder: Path) -> bool:
    """Whether a prepared directory has a split to test on, besides the one for training."""
    try:
        names = {split["name"] for split in read_info(folder)["splits"] if sum(_lengths(split))}
    except (LookupError, TypeError, ValueError):  # damaged, as `read_prepared` will say
        return True
    return bool(names & {"test", "validation"})


def read_prepared(folder: Path, wanted: Wanted) -> Decoded:
    """Decodes the splits of a prepared directory, or only one, in their order on disk.

    Raises:
        UserError: it is damaged, or of another kind than images with class labels.
    """
    with _named(folder):
        channels, class_names = _features(folder)
        form, shards = _shards(folder)
        splits = {}
        for part, name in _parts(folder, shards, wanted.part).items():
            where, counts = f"{folder} ({name})", shards[name]
            found = itertools.chain.from_iterable(map(partial(record_files.records, form), counts))
            first = next(found, None)
            if first is None:
                raise ValueError(f"{where} has none of the records it states")
            recipe = _recipe(form, first, channels, class_names, wanted)
            splits[part] = _decode(
                itertools.chain([first], found), sum(counts.values()), recipe, where
            )
        return Decoded(_divided(folder, wanted, splits), class_names)


def storage(folder: Path, wanted: Wanted) -> Storage:
    """How the examples of a prepared directory are read one by one; raises as `read_prepared`."""

    def references() -> dict[str, References]:
        with _named(folder):
            form, shards = _shards(folder)
            parts = _parts(folder, shards, wanted.part)
            return {part: References(form, shards[name]) for part, name in parts.items()}

    @images_lib.quietly()
    def recipe() -> tuple[Recipe, tuple[str, ...]]:
        with _named(folder):
            channels, class_names = _features(folder)
            form, shards = _shards(folder)
            name = next(iter(_parts(folder, shards, wanted.part).values()))
            first = next(record_files.records(form, next(iter(shards[name]))))
            return _recipe(form, first, channels, class_names, wanted), ()

    return Storage(references, recipe, partial(_divided, folder, wanted))


def _divided(folder: Path, wanted: Wanted, splits: dict[str, Split]) -> dict[str, Split]:
    """With a part to test on, which is taken from train where a prepared directory has none."""
    if is_divided(folder):
        return splits
    train, test = split_test(splits["train"], wanted.test_fraction)
    return {**splits, "train": train, "test": test}


def example(record: bytes, recipe: Recipe, name: str) -> tuple[Any, int]:
    """The image and the label of a serialized example, which messages call by this name.

    It is an image of Pillow of the recipe's channels, as large as it is stored.
    """
    (height, width, channels), (image, label) = recipe.image_shape, _parsed(record)
    if recipe.resize is None and image.size != (width, height):
        raise UserError(
            f"{name}: all images must have one size, found {image.width}x{image.height} and "
            f"{width}x{height} (width x height). Say what size all shall get, "
            "--config.dataset.image_size='(32,32)' (height, width), and how, "
            "--config.dataset.resize=squash, crop or pad"
        )
    check_memory(1, (image.height, image.width, channels), name)
    return image.convert(_MODES[channels]), label


def _recipe(
    form: str, first: bytes, channels: int, class_names: tuple[str, ...], wanted: Wanted
) -> Recipe:
    """That of all records, whose images have the size of the first one if no other is wanted."""
    from PIL import Image

    if size := wanted.image_size:
        side = int((Image.MAX_IMAGE_PIXELS or 2**27) ** 0.5)  # sizes are not known beforehand
        return Recipe(form, (*size, channels), class_names, None, wanted.resize, (side, side))
    image, _ = _parsed(first)
    size = image.height, image.width
    return Recipe(form, (*size, channels), class_names, largest=size)


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Whatever is wrong inside is one line for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged files make the readers raise almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{folder} cannot be read, {_ADVICE}: {reason}") from None


def _parts(
    folder: Path, shards: Mapping[str, Mapping[Path, int]], only: str | None
) -> dict[str, str]:
    """What the splits to be read, or the only one, are called there."""
    available = {name: sum(lengths.values()) for name, lengths in shards.items()}
    names = {"train": "train", "test": "test", "val": "validation"}
    if "test" not in available:
        names = {"train": "train", "test": "validation"}
    names = {part: name for part, name in names.items() if available.get(name)}
    if "train" not in names:
        raise UserError(f"{folder} needs a train split: {available}")
    if only and only not in (*names, "test"):
        raise UserError(f"{folder} has no {only} split")
    return {part: name for part, name in names.items() if only in (None, part) or only not in names}


def _features(folder: Path) -> tuple[int, tuple[str, ...]]:
    """The channels of the images, and the class names."""
    root = files.read_record(folder / "features.json", _ADVICE)
    if root is None:
        raise ValueError("there is no features.json")
    # Versions before 4.5 write "type" and "content" in place of "pythonClassName" and the kind.
    features = root["featuresDict"]["features"] if "featuresDict" in root else root["content"]
    if not _CLASSES.keys() <= features.keys():
        raise UserError(f"{folder} has no image and class label, only {', '.join(features)}")
    for name, expected in _CLASSES.items():
        named = features[name].get("pythonClassName", features[name].get("type"))
        if named != f"tensorflow_datasets.core.features.{expected}":
            raise UserError(f"{folder}/features.json: {name} is {named}, not TFDS's {expected}")
    image = features["image"].get("image", features["image"].get("content"))
    label = features["label"].get("classLabel", features["label"].get("content"))
    if image["dtype"] != "uint8":
        raise UserError(f"{folder}: its images are {image['dtype']}, not uint8")
    shape = image["shape"]
    channels = int((shape["dimensions"] if isinstance(shape, dict) else shape)[-1])
    if channels not in _MODES:
        raise UserError(f"{folder}: its images have {channels} channels, not 1, 3 or 4")
    count = int(label.get("numClasses", label.get("num_classes")))
    path = folder / "label.labels.txt"
    if path.exists():
        lines = files.read_bytes(path).decode("utf-8").split("\n")
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        names = tuple(map(str, range(min(count, _MOST_CLASSES))))
    if len(names) != count:
        raise ValueError(f"there are {len(names)} names of {count} classes")
    return channels, names


def _shards(folder: Path) -> tuple[str, dict[str, dict[Path, int]]]:
    """The form of the files, and for each split their paths and numbers of records."""
    info = read_info(folder)
    form = info.get("fileFormat", "tfrecord")
    if form not in record_files.FORMS:
        raise UserError(f"{folder} is in {form} form: prepare it with file_format='array_record'")
    shards: dict[str, dict[Path, int]] = {}
    for split in info["splits"]:
        lengths = _lengths(split)
        template = split.get("filepathTemplate") or _TEMPLATE
        names = {"DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": form}
        shards[split["name"]] = {
            folder / _shard_path(template, names, number, len(lengths)): length
            for number, length in enumerate(lengths)
        }
    return form, shards


def _lengths(split: dict[str, Any]) -> list[int]:
    """How many examples each file of a split has, as `dataset_info.json` says."""
    return [int(length) for length in split.get("shardLengths", ())]


def _shard_path(template: str, names: dict[str, str], number: int, total: int) -> Path:
    """The path of a file inside its folder; refused where it would lie elsewhere."""
    digits = max(5, len(str(total)))
    index, count = f"{number:0{digits}}", f"{total:0{digits}}"
    shard = {"SHARD_INDEX": index, "NUM_SHARDS": count, "SHARD_X_OF_Y": f"{index}-of-{count}"}
    path = Path(re.sub(r"\{(\w+)\}", lambda match: {**names, **shard}[match[1]], template))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{path} is no file of this folder")
    return path


@images_lib.quietly()
def _decode(records: Iterator[bytes], count: int, recipe: Recipe, name: str) -> Split:
    """Images and labels of `count` serialized examples."""

    def decode(index: int, record: bytes) -> None:
        image, labels[index] = example(record, recipe, name)
        images[index] = resize_lib.pixels(image, recipe.image_shape, recipe.resize)

    images, labels = empty_images(count, recipe.image_shape, name), np.empty(count, np.int32)
    workers = images_lib.workers_within(budget() - images.nbytes, *recipe.largest)
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(itertools.islice(records, _EXAMPLES_AT_ONCE)):
            if done + len(batch) > count:
                raise ValueError(f"{name} has more than the {count} records it states")
            list(pool.map(decode, itertools.count(done), batch))
            done += len(batch)
    if done != count:
        raise ValueError(f"{name} has {done} of the {count} records it states")
    return Split(images, labels)


def _parsed(record: bytes) -> tuple[Any, int]:
    """The image, whose pixels are not decoded yet, and the label of a serialized example."""
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    feature = tf_example_pb2.Example.FromString(record).features.feature
    encoded = io.BytesIO(feature["image"].bytes_list.value[0])
    image = Image.open(encoded, formats=("PNG", "JPEG", "GIF", "BMP"))
    return image, feature["label"].int64_list.value[0]
