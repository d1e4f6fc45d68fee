"""The files of a data set that TensorFlow Datasets has prepared, read by their documented forms.

TFDS itself would import every class that `features.json` names. Here only plain values of two
features are taken from it, whatever else it holds. Both forms on users' disks are read,
`array_record` and TFRecord, each of serialized `tf.train.Example`s.
"""

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eanet import files
from eanet.data import images as images_lib
from eanet.data import record_files, turn
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
# In pixels: the system is asked whether there is memory for a larger image. That takes as long as
# to decode a small one, and thousands of those come one after the other.
_ASKED_FOR = 2**20
# Images whose size is looked at, where no size of all is recorded.
_SAMPLE = 64
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_MOST_CLASSES = 1_000_000
# By channels: how Pillow names them.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_CLASSES = {"image": "image_feature.Image", "label": "class_label_feature.ClassLabel"}
# A reason of `validation_is_test`.
UNLABELLED = "its test split has no labels"
# Files of a split, and how many records each states to have.
Shards = Mapping[Path, int]


def read_info(folder: Path) -> dict[str, Any]:
    """The content of `dataset_info.json`, empty where there is none."""
    return files.read_record(folder / "dataset_info.json", _ADVICE) or {}


def is_divided(folder: Path) -> bool:
    """Whether a prepared directory has a split to test on, besides the one for training."""
    try:
        names = _present(folder)
    except (LookupError, TypeError, ValueError):  # damaged, as `read_prepared` will say
        return True
    return bool(names.keys() & {"test", "validation"})


def validation_is_test(folder: Path, only: str | None) -> str | None:
    """Why the validation split is read as the one to test on; None where it is not.

    A test split without labels, as the one of imagenet2012, is none. For the part alone that is
    asked for, or for all.
    """
    with _named(folder):
        present = _present(folder)
        if only not in (None, "test") or "validation" not in present:
            return None
        if "test" not in present:
            return "it has no test split"
        form, shards = _shards(folder)
        with contextlib.suppress(Exception):  # what is damaged is told of when it is read
            if _first_label(form, shards["test"]) < 0:
                return UNLABELLED
        return None


def not_to_decode(folder: Path, wanted: Wanted) -> str | None:
    """Why a prepared directory cannot be decoded beforehand as is wanted; None where it can."""
    with _named(folder):
        present = _present(folder)
        if "train" not in present:
            return "it has no train split, and is there to evaluate on"
        if wanted.image_size is None and _features(folder)[2] is None:
            return "its images may have many sizes, and no size for all is asked for"
        return None


def sizes(folder: Path) -> str:
    """How many examples the splits have, for people."""
    with _named(folder):
        return ", ".join(f"{count:,} {name}" for name, count in _present(folder).items())


def read_prepared(folder: Path, wanted: Wanted) -> Decoded:
    """Decodes the splits of a prepared directory, or only one, in their order on disk.

    Raises:
        UserError: it is damaged, or of another kind than images with class labels.
    """
    with _named(folder):
        recipe, shards = _recipe(folder, wanted)
        counts = {part: sum(files.values()) for part, files in shards.items()}
        images = empty_images(sum(counts.values()), recipe.image_shape, folder)
        threads = images_lib.threads_within(
            recipe.memory(budget() - images.nbytes), *recipe.largest
        )
        splits, start = {}, 0
        for part, count in counts.items():
            found = map(partial(record_files.records, recipe.form), shards[part])
            records = itertools.chain.from_iterable(found)
            room = images[start : start + count]
            splits[part] = _decode(records, room, recipe, f"{folder} ({part})", threads)
            start += count
        return Decoded(_divided(folder, wanted, splits), recipe.class_names)


def storage(folder: Path, wanted: Wanted) -> Storage:
    """How the examples of a prepared directory are read one by one; raises as `read_prepared`."""

    def references() -> dict[str, References]:
        with _named(folder):
            form, parts = _parts(folder, wanted.part)
            return {part: References(form, shards) for part, shards in parts.items()}

    def recipe() -> tuple[Recipe, tuple[str, ...]]:
        with _named(folder):
            return _recipe(folder, wanted)[0], ()

    return Storage(references, recipe, partial(_divided, folder, wanted))


def _divided(folder: Path, wanted: Wanted, splits: dict[str, Split]) -> dict[str, Split]:
    """With a part to test on, which is taken from train where a prepared directory has none."""
    if is_divided(folder):
        return splits
    train, test = split_test(splits["train"], wanted.test_fraction)
    if not len(test):
        raise UserError(f"{folder} has no class of two images, so that none is left to test on")
    return {**splits, "train": train, "test": test}


@contextlib.contextmanager
def example(record: bytes, recipe: Recipe, name: str) -> Iterator[tuple[Any, int]]:
    """The image and the label of a serialized example, which messages call by this name.

    It is an image of Pillow of the recipe's channels, as large as it is stored. Only one that is
    larger than what the recipe counts with exists at a time.
    """
    (height, width, channels), (image, label) = recipe.image_shape, _parsed(record)
    if recipe.resize is None and image.size != (width, height):
        raise UserError(
            f"{name}: all images must have one size, found {image.width}x{image.height} and "
            f"{width}x{height} (width x height). Say what size all shall get, "
            "--config.dataset.image_size='(32,32)' (height, width), and how, "
            "--config.dataset.resize=squash, crop or pad"
        )
    pixels = image.height * image.width
    if pixels > _ASKED_FOR:
        check_memory(1, (image.height, image.width, channels), name)
    larger = pixels > math.prod(recipe.largest)
    with turn.turn() if larger else contextlib.nullcontext():
        yield image.convert(_MODES[channels]), label


@images_lib.quietly()
def _recipe(folder: Path, wanted: Wanted) -> tuple[Recipe, dict[str, Shards]]:
    """That of all records, and the files of each part that is to be read.

    Their images have the size of the first one if no other is wanted. If one is, the size of all
    that is recorded says how large they are as they are stored, or else a few of them do.

    Raises:
        UserError: a part has no labels, which is seen before anything is decoded.
    """
    channels, class_names, stored = _features(folder)
    form, parts = _parts(folder, wanted.part)
    for part, shards in parts.items():
        if _first_label(form, shards) < 0:
            instead = ", and it has no validation split to test on instead"
            raise UserError(
                f"{folder}: its {part} split has no labels{instead if part == 'test' else ''}"
            )
    if wanted.image_size is None:
        size = _seen(form, next(iter(parts.values())), 1)
        return Recipe(form, (*size, channels), class_names, largest=size), parts
    every = {path: count for shards in parts.values() for path, count in shards.items()}
    recipe = Recipe(
        form,
        (*wanted.image_size, channels),
        class_names,
        resize=wanted.resize,
        largest=stored or _seen(form, every, _SAMPLE),
        larger=stored is None,
    )
    return recipe, parts


def _first_label(form: str, shards: Shards) -> int:
    return _label(_feature(_firsts(form, shards, 1)[0]))


def _seen(form: str, shards: Shards, count: int) -> tuple[int, int]:
    """The largest height and the largest width of about so many images."""
    images = [_parsed(record)[0] for record in _firsts(form, shards, count)]
    return max(image.height for image in images), max(image.width for image in images)


def _firsts(form: str, shards: Shards, count: int) -> list[bytes]:
    """About so many records: the first ones of some of the files, which are evenly chosen."""
    paths = [path for path, stated in shards.items() if stated]
    paths = paths[:: math.ceil(len(paths) / count)]
    of_each = math.ceil(count / len(paths))
    found = [record_files.first_records(form, path, of_each) for path in paths]
    if not all(found):
        raise ValueError(f"{paths[found.index([])].name} has none of the records it states")
    return list(itertools.chain.from_iterable(found))


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


def _present(folder: Path) -> dict[str, int]:
    """The splits that are not empty, and how many examples each has."""
    counts = {split["name"]: sum(_lengths(split)) for split in read_info(folder)["splits"]}
    return {name: count for name, count in counts.items() if count}


def _parts(folder: Path, only: str | None) -> tuple[str, dict[str, Shards]]:
    """The form of the files, and those of each part to be read, or of the only one.

    To test on what is held out of train, where there is nothing else, takes that alone.
    """
    form, shards = _shards(folder)
    names = {"train": "train", "test": "test", "val": "validation"}
    if validation_is_test(folder, only):
        names = {"train": "train", "test": "validation"}
    present = _present(folder)
    names = {part: name for part, name in names.items() if name in present}
    wanted = names.keys() if only is None else {only}
    if only == "test" and not is_divided(folder):
        wanted = {"train"}
    for part in wanted if only else {"train"}:
        if part not in names:
            found = ", ".join(present) or "none"
            use = "" if only or not present else "; to evaluate on it alone, name it by --dataset"
            raise UserError(f"{folder} needs a {part} split; it has {found}{use}")
    return form, {part: shards[name] for part, name in names.items() if part in wanted}


def _features(folder: Path) -> tuple[int, tuple[str, ...], tuple[int, int] | None]:
    """The channels of the images, the class names, and height and width where all have the same."""
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
    *sides, channels = (
        int(size or -1) for size in (shape["dimensions"] if isinstance(shape, dict) else shape)
    )
    size = (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None
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
    return channels, names, size


def _shards(folder: Path) -> tuple[str, dict[str, Shards]]:
    """The form of the files, and for each split their paths and numbers of records."""
    info = read_info(folder)
    form = info.get("fileFormat", "tfrecord")
    if form not in record_files.FORMS:
        raise UserError(f"{folder} is in {form} form: prepare it with file_format='array_record'")
    shards: dict[str, Shards] = {}
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
def _decode(
    records: Iterator[bytes], images: np.ndarray, recipe: Recipe, name: str, threads: int
) -> Split:
    """Images, into the array, and labels of as many serialized examples as it has room for."""

    def decode(index: int, record: bytes) -> None:
        with example(record, recipe, name) as (image, labels[index]):
            images[index] = resize_lib.pixels(image, recipe.image_shape, recipe.resize)

    count = len(images)
    labels, done = np.empty(count, np.int32), 0
    with ThreadPoolExecutor(threads) as pool:
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

    feature = _feature(record)
    encoded = io.BytesIO(feature["image"].bytes_list.value[0])
    return Image.open(encoded, formats=("PNG", "JPEG", "GIF", "BMP")), _label(feature)


def _feature(record: bytes) -> Any:
    """What a serialized example holds, by name."""
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def _label(feature: Any) -> int:
    return feature["label"].int64_list.value[0]
