"""Small datasets in the forms that the sources read, written independently of them."""

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

_TFDS = "tensorflow_datasets.core.features"


def random_images(count: int, shape=(6, 5, 3), classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, rng.integers(0, classes, count).astype(np.int32)


def png(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of `uint16[H, W, C]`, of all four colour types; Pillow writes the first alone."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write_prepared(
    root: Path,
    form: str,
    splits: dict,
    name="shapes",
    version="1.0.0",
    shards=2,
    shape: tuple | None = None,
):
    """A directory as TFDS prepares it, in `array_record` or `tfrecord` form.

    An image is an array, or the bytes of a file. As the shape of all, where -1 is for what differs,
    that of the first array is recorded.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / name / version
    folder.mkdir(parents=True)
    name = name.split("/")[0]
    infos = []
    for split, (images, labels) in splits.items():
        records = []
        for image, label in zip(images, labels, strict=True):
            example = tf_example_pb2.Example()
            encoded = image if isinstance(image, bytes) else png(image)
            example.features.feature["image"].bytes_list.value.append(encoded)
            example.features.feature["label"].int64_list.value.append(int(label))
            records.append(example.SerializeToString())
        cuts = [len(records) * k // shards for k in range(shards + 1)]
        for k in range(shards):
            path = folder / f"{name}-{split}.{form}-{k:05d}-of-{shards:05d}"
            _write_records(path, form, records[cuts[k] : cuts[k + 1]])
        infos.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(cuts[k + 1] - cuts[k]) for k in range(shards)],
            }
        )
    info = {"fileFormat": form, "name": name, "version": version, "splits": infos}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    dimensions = [str(size) for size in shape or next(iter(splits.values()))[0][0].shape]
    features = {
        "pythonClassName": f"{_TFDS}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {
                    "pythonClassName": f"{_TFDS}.image_feature.Image",
                    "image": {"dtype": "uint8", "shape": {"dimensions": dimensions}},
                },
                "label": {
                    "pythonClassName": f"{_TFDS}.class_label_feature.ClassLabel",
                    "classLabel": {"numClasses": "3"},
                },
            }
        },
    }
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "label.labels.txt").write_text("circle\nsquare\nstar\n")
    return folder


def _write_records(path: Path, form: str, records: list[bytes]):
    if form == "array_record":
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
    else:
        with open(path, "wb") as file:
            for record in records:
                file.write(struct.pack("<QI", len(record), 0) + record + bytes(4))


def write_folder(root: Path, layout: dict[str, int], shape=(6, 5, 3), seed: int = 0):
    """`layout` maps `PART/CLASS` to a number of PNG files. Returns pixels by path."""
    rng = np.random.default_rng(seed)
    written = {}
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            path = root / folder / f"{number}.png"
            path.write_bytes(png(pixels))
            written[path] = pixels
    return written
