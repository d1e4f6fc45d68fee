"""Image classification sets in the form TensorFlow Datasets prepares, read without TensorFlow.

Both forms on users' disks are read: `array_record` through `tfds.data_source`, and TFRecord,
whose framing is a length and two checksums around the same serialized examples. Only *preparing*
a dataset needs TensorFlow; that runs in a process of its own.
"""

import difflib
import fnmatch
import importlib.util
import io
import itertools
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eanet.data.base import Decoded, Source, Split, Wanted, empty_images, fingerprint
from eanet.errors import UserError

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_REQUEST = re.compile(
    r"(?P<name>[a-z][\w-]{,99})(/(?P<config>\w[\w.+-]{,99}))?"
    r"(:(?P<version>[\d*]{1,9}(\.[\d*]{1,9}){2}))?",
    re.ASCII | re.IGNORECASE,
)
_RECORDS_AT_ONCE = 1024
# The child's last line of output is the reason of a failure.
_PREPARE = """
import sys
import tensorflow_datasets as tfds
name, data_dir = sys.argv[1:]
try:
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
except Exception as error:
    sys.exit(print(" ".join(f"{type(error).__name__}: {error}".split())[:300]) or 1)
"""


@dataclass(frozen=True)
class Request:
    """What `name/config:version` asks for; without a version, the newest prepared one."""

    name: str
    config: str | None
    version: str

    @classmethod
    def parse(cls, text: str) -> "Request | None":
        """None where `text` is not of that form."""
        match = _REQUEST.fullmatch(text)
        return match and cls(match["name"], match["config"], match["version"] or "*")

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{self.name}{config}" + (f":{self.version}" if self.version != "*" else "")


def tfds_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    """Where prepared datasets are looked for: the argument, TFDS_DATA_DIR, or TFDS's default.

    Raises:
        UserError: a directory was named and does not exist.
    """
    for origin, value in (
        ("dataset.data_dir", data_dir),
        ("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR")),
    ):
        if value:
            path = os.path.expanduser(value)
            if not os.path.isdir(path):
                raise UserError(f"{origin}={value} is no directory; create it or name another")
            return Path(path).absolute()
    return Path.home() / "tensorflow_datasets"


def prepared_source(request: Request, root: Path, wanted: Wanted) -> Source | None:
    """The newest prepared version of a dataset under `root`; None where there is none.

    `root` may also be the dataset's own directory, or that of one version.

    Raises:
        UserError: several configs are prepared and the request names none.
    """
    folder = _prepared_folder(request, root)
    if folder is None:
        return None
    files = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    # One without a version in its request is the same source when a newer one appears.
    return Source(
        str(request),
        f"tfds:{folder.parent}:{request}" + (f":{wanted.part}" if wanted.part else ""),
        fingerprint(files) + folder.name,
        lambda: _read(folder, wanted.part),
        str(folder.absolute()),
    )


def _prepared_folder(request: Request, root: Path) -> Path | None:
    if _info(root).get("name") == request.name:
        return root
    base = root / request.name
    if not base.is_dir() and root.name == request.name:
        base = root
    if request.config:
        return _newest(base / request.config, request.version)
    if folder := _newest(base, request.version):
        return folder
    configs = {
        path.name: folder
        for path in (sorted(base.iterdir()) if base.is_dir() else ())
        if (folder := _newest(path, request.version))
    }
    if len(configs) > 1:
        names = ", ".join(f"{request.name}/{config}" for config in configs)
        raise UserError(f"{base} holds several configs: set dataset.name to one of {names}")
    return next(iter(configs.values()), None)


def _newest(folder: Path, version: str) -> Path | None:
    found = [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if _VERSION.fullmatch(path.name) and fnmatch.fnmatch(path.name, version) and _info(path)
    ]
    return max(found, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def _info(folder: Path) -> dict[str, Any]:
    """The content of `dataset_info.json`, empty where there is none."""
    try:
        info = json.loads((folder / "dataset_info.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'dataset_info.json'} cannot be read: {error}") from None
    return info if isinstance(info, dict) else {}


def check_known(request: Request, root: Path, others: Iterable[str]) -> None:
    """Raises UserError, naming the nearest name, where TFDS has no dataset of this name."""
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if request.name not in known:
        prepared = [path.name for path in root.iterdir()] if root.is_dir() else []
        near = difflib.get_close_matches(request.name.lower(), [*known, *prepared, *others], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see tensorflow.org/datasets/catalog"
        raise UserError(
            f"dataset.name={request.name!r} is neither prepared in {root} nor a TFDS name; {hint}"
        )


def prepare(request: Request, root: Path, log: Callable[[str], object]) -> str | None:
    """Downloads and prepares a dataset under `root`, by TensorFlow in another process.

    Returns:
        None when it is prepared, else why it is not, as part of a sentence.
    """
    if importlib.util.find_spec("tensorflow") is None:
        return "TensorFlow, which would prepare it, is not installed"
    log(f"preparing {request} in {root} with TensorFlow, in a process of its own")
    child = subprocess.run(
        [sys.executable, "-c", _PREPARE, str(request), str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    if child.returncode == 0:
        return None
    lines = child.stdout.strip().splitlines() or [f"exit code {child.returncode}"]
    return f"TensorFlow could not prepare it ({lines[-1]})"


def _read(folder: Path, only: str | None) -> Decoded:
    """Decodes the splits of a prepared directory, or only one, in their order on disk."""
    _require_plain_features(folder)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        features = dict(builder.info.features)
    except Exception as error:
        raise _damaged(folder, error) from None
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(f"{folder} has no image and class label, only {', '.join(features)}")
    if image.np_dtype != np.uint8:
        raise UserError(f"{folder}: its images are {np.dtype(image.np_dtype)}, not uint8")
    available = {name: split.num_examples for name, split in builder.info.splits.items()}
    names = {"train": "train", "test": "test", "val": "validation"}
    if "test" not in available:
        names = {"train": "train", "test": "validation"}
    names = {part: name for part, name in names.items() if available.get(name)}
    if not {"train", "test"} <= names.keys():
        raise UserError(f"{folder} needs a train and a test or validation split: {available}")
    if only and only not in names:
        raise UserError(f"{folder} has no {only} split")
    names = {only: names[only]} if only else names
    wanted = tfds.features.FeaturesDict({"image": image, "label": label})

    def decode(record: bytes) -> tuple[np.ndarray, int]:
        example = wanted.deserialize_example_np(
            record, decoders={"image": tfds.decode.SkipDecoding()}
        )
        return _pixels(example["image"], image.shape[-1]), int(example["label"])

    splits = {}
    for part, name in names.items():
        try:
            splits[part] = _decode_split(
                _records(builder, name), decode, available[name], f"{folder} ({name})"
            )
        except UserError:
            raise
        except Exception as error:
            raise _damaged(folder, error) from None
    return Decoded(splits, tuple(label.names))


def _require_plain_features(folder: Path) -> None:
    """Refuses classes from outside TFDS: it would import the module that the file names."""
    try:
        text = (folder / "features.json").read_text("utf-8")
    except OSError as error:
        raise _damaged(folder, error) from None
    for name in re.findall(r'"pythonClassName"\s*:\s*"([^"]*)"', text):
        if not name.startswith("tensorflow_datasets."):
            raise UserError(f"{folder}/features.json names {name}, which is no feature of TFDS")


def _damaged(folder: Path, error: Exception) -> UserError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return UserError(f"{folder} cannot be read, prepare it again: {reason}")


def _records(builder: Any, split: str) -> Iterator[bytes]:
    """The serialized examples of a split."""
    import tensorflow_datasets as tfds

    form = builder.info.file_format.value
    if form == "tfrecord":
        for path in builder.info.splits[split].filepaths:
            yield from _tfrecords(Path(path))
    elif form == "array_record":
        source = builder.as_data_source(
            split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        for start in range(0, len(source), _RECORDS_AT_ONCE):
            yield from source.__getitems__(range(start, min(start + _RECORDS_AT_ONCE, len(source))))
    else:
        raise UserError(
            f"{builder.data_dir} is in {form} form: prepare it with file_format='array_record'"
        )


def _tfrecords(path: Path) -> Iterator[bytes]:
    """Records of a TFRecord file: uint64 length, its checksum, the bytes, their checksum.

    The checksums (CRC-32C, which Python lacks) are skipped; sizes are checked here, counts and
    encoded images by the caller.
    """
    remaining = path.stat().st_size
    with open(path, "rb") as file:
        while remaining:
            header = file.read(12)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else remaining
            remaining -= 12 + length + 4
            if remaining < 0:
                raise ValueError(f"{path.name} is truncated")
            yield file.read(length)
            file.seek(4, os.SEEK_CUR)


def _pixels(encoded: bytes, channels: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "GIF", "BMP")) as image:
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        return np.asarray(image.convert(mode)).reshape(image.height, image.width, channels)


def _decode_split(
    records: Iterable[bytes],
    decode: Callable[[bytes], tuple[np.ndarray, int]],
    count: int,
    name: str,
) -> Split:
    records = iter(records)
    labels = np.empty(count, np.int32)
    images: np.ndarray | None = None
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(itertools.islice(records, _RECORDS_AT_ONCE)):
            if done + len(batch) > count:
                raise ValueError(f"{name} has more than the {count} records it states")
            for pixels, label in pool.map(decode, batch):
                if images is None:
                    images = empty_images(count, pixels.shape, name)
                if pixels.shape != images.shape[1:]:
                    raise UserError(
                        f"{name}: all images must have one size, found {pixels.shape} and "
                        f"{images.shape[1:]}; resize them into a folder and use folder:PATH"
                    )
                images[done], labels[done] = pixels, label
                done += 1
    if images is None or done != count:
        raise ValueError(f"{name} has {done} of the {count} records it states")
    return Split(images, labels)
