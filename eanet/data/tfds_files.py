"""The files of a data set that TensorFlow Datasets has prepared, read by their documented forms.

TFDS itself would import every class that `features.json` names. Here only plain values of two
features are taken from it, whatever else it holds. Both forms on users' disks are read,
`array_record` and TFRecord, each of serialized `tf.train.Example`s.
"""

import io
import itertools
import os
import re
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from eanet import files
from eanet.data import images as images_lib
from eanet.data import resize as resize_lib
from eanet.data.base import Decoded, Split, Wanted, budget, check_memory, empty_images
from eanet.data.splits import split_test
from eanet.errors import UserError

_ADVICE = "prepare it again"
_RECORDS_AT_ONCE = 1024
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
    try:
        channels, class_names = _features(folder)
        examples = _examples(folder)
        available = {name: count for name, (_, count) in examples.items()}
        names = {"train": "train", "test": "test", "val": "validation"}
        if "test" not in available:
            names = {"train": "train", "test": "validation"}
        names = {part: name for part, name in names.items() if available.get(name)}
        if "train" not in names:
            raise UserError(f"{folder} needs a train split: {available}")
        if wanted.part and wanted.part not in (*names, "test"):
            raise UserError(f"{folder} has no {wanted.part} split")
        needed = wanted.part if wanted.part in names else None
        splits = {
            part: _decode(*examples[name], channels, wanted, f"{folder} ({name})")
            for part, name in names.items()
            if needed in (None, part)
        }
        if not is_divided(folder):
            splits["train"], splits["test"] = split_test(splits["train"], wanted.test_fraction)
    except UserError:
        raise
    except Exception as error:  # damaged files make the readers raise almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{folder} cannot be read, {_ADVICE}: {reason}") from None
    return Decoded(splits, class_names)


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


def _examples(folder: Path) -> dict[str, tuple[Iterator[bytes], int]]:
    """By split the records of its files, read when they are asked for, and how many there are."""
    info = read_info(folder)
    form = info.get("fileFormat", "tfrecord")
    if form not in _READERS:
        raise UserError(f"{folder} is in {form} form: prepare it with file_format='array_record'")
    examples: dict[str, tuple[Iterator[bytes], int]] = {}
    for split in info["splits"]:
        lengths = _lengths(split)
        template = split.get("filepathTemplate") or _TEMPLATE
        names = {"DATASET": info["name"], "SPLIT": split["name"], "FILEFORMAT": form}
        paths = [
            folder / _shard_path(template, names, number, len(lengths))
            for number in range(len(lengths))
        ]
        records = itertools.chain.from_iterable(map(_READERS[form], paths))
        examples[split["name"]] = records, sum(lengths)
    return examples


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


def _tfrecords(path: Path) -> Iterator[bytes]:
    """Records of a TFRecord file: uint64 length, its checksum, the bytes, their checksum.

    The checksums (CRC-32C, which Python lacks) are skipped; sizes are checked here, counts and
    encoded images by the caller.
    """
    with os.fdopen(files.open_regular(path, follow=True), "rb") as file:
        remaining = os.fstat(file.fileno()).st_size
        while remaining:
            header = file.read(12)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else remaining
            remaining -= 12 + length + 4
            if remaining < 0:
                raise ValueError(f"{path.name} is truncated")
            yield file.read(length)
            file.seek(4, os.SEEK_CUR)


def _array_records(path: Path) -> Iterator[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    os.close(files.open_regular(path, follow=True))  # for a pipe the reader would wait
    reader = ArrayRecordReader(str(path))
    try:
        count = reader.num_records()
        for start in range(0, count, _RECORDS_AT_ONCE):
            yield from reader.read(start, min(start + _RECORDS_AT_ONCE, count))
    finally:
        reader.close()


_READERS = {"tfrecord": _tfrecords, "array_record": _array_records}


@images_lib.quietly()
def _decode(
    records: Iterator[bytes], count: int, channels: int, wanted: Wanted, name: str
) -> Split:
    """Images and labels of `count` serialized examples.

    Memory for all is asked for by the header of the first image, before any is decoded.
    """
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    def parse(record: bytes) -> tuple[Any, int]:
        feature = tf_example_pb2.Example.FromString(record).features.feature
        encoded = io.BytesIO(feature["image"].bytes_list.value[0])
        image = Image.open(encoded, formats=("PNG", "JPEG", "GIF", "BMP"))
        return image, feature["label"].int64_list.value[0]

    def decode(index: int, record: bytes) -> None:
        image, labels[index] = parse(record)
        if wanted.image_size:
            check_memory(1, (image.height, image.width, channels), name)
            image = resize_lib.fit(image.convert(_MODES[channels]), shape[:2], wanted.resize)
        elif (image.height, image.width) != shape[:2]:
            raise UserError(
                f"{name}: all images must have one size, found {image.width}x{image.height} and "
                f"{shape[1]}x{shape[0]} (width x height). Say what size all shall get, "
                "--config.dataset.image_size='(32,32)' (height, width), and how, "
                "--config.dataset.resize=squash, crop or pad"
            )
        images[index] = np.asarray(image.convert(_MODES[channels])).reshape(shape)

    first = next(records, None)
    if first is None:
        raise ValueError(f"{name} has none of the {count} records it states")
    image, _ = parse(first)
    shape = (*(wanted.image_size or (image.height, image.width)), channels)
    images, labels = empty_images(count, shape, name), np.empty(count, np.int32)
    # The sizes of the others are not known yet.
    side = int((Image.MAX_IMAGE_PIXELS or 2**27) ** 0.5) if wanted.image_size else 0
    largest = max(image.height, side), max(image.width, side)
    workers = images_lib.workers_within(budget() - images.nbytes, *largest)
    done, records = 0, itertools.chain([first], records)
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(itertools.islice(records, _RECORDS_AT_ONCE)):
            if done + len(batch) > count:
                raise ValueError(f"{name} has more than the {count} records it states")
            list(pool.map(decode, itertools.count(done), batch))
            done += len(batch)
    if done != count:
        raise ValueError(f"{name} has {done} of the {count} records it states")
    return Split(images, labels)
