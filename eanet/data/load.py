"""A dataset name becomes the three splits that a run uses, or one part for a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from eanet import rules
from eanet.data import resize as resize_lib
from eanet.data import splits
from eanet.data.base import Decoded, Log, MaybePath, Split, Wanted
from eanet.data.sources import decode
from eanet.data.stored import Crops, StoredImages
from eanet.errors import UserError

RULES: dict[str, rules.Rule] = {
    "name": rules.Text(),
    "data_dir": rules.Text(),
    "image_size": rules.OrNothing(rules.Size()),
    "resize": rules.NameIn(resize_lib.RESIZES),
    "on_bad_image": rules.Choice("refuse", "skip"),
    "class_weights": rules.Choice("none", "balanced"),
    "streaming": rules.OrNothing(rules.Switch()),
    "decode_crop": rules.Number(0, 1),
    **splits.RULES,
}

_FEW = 8  # class names in a message


@dataclass(frozen=True)
class Part:
    """One part of a dataset, with the labels of a model; the rest is as of `Dataset`."""

    split: Split
    fingerprint: str
    place: str | None


@dataclass(frozen=True)
class Dataset:
    """Three splits of one dataset."""

    name: str  # as given to `load_dataset`
    train: Split  # what is left of the training split
    val: Split  # for choosing checkpoints and settings; empty where `val_fraction` is 0
    test: Split  # held out, for one evaluation at the end
    class_names: tuple[str, ...]  # label `i` means `class_names[i]`
    mean: np.ndarray  # `float32[C]`, per channel over `train`, on the scale 0..255
    std: np.ndarray  # `float32[C]`, likewise; at least 1
    # By name of the split, of the part of the source that it is taken from.
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    place: str | None = None  # absolute path of the source; None where that is always the same
    bits: int | None = None  # of the values of 16-bit images, see `eanet.data.images`
    resize: str = resize_lib.DEFAULT  # of images of another size than `image_shape`
    skipped: int = 0  # files of the source that could not be read
    class_weights: np.ndarray | None = None  # `float32[classes]`, of the loss; None: all are 1
    crops: Crops | None = None  # what training sees of `train`; None: the images as they are
    tested_on: str = "test"  # what the source calls its split that is `test`

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def holds_out(self) -> bool:
        """Whether validation is a part of the source's own training split."""
        return self.fingerprints.get("val") == self.fingerprints.get("train")

    def __str__(self) -> str:
        sizes = f"{len(self.train)} train, {len(self.val)} val, {len(self.test)} test"
        shape = "x".join(map(str, self.image_shape))
        return f"{self.name}: {sizes} images of {shape}, {self.num_classes} classes"


def load_dataset(
    name: str,
    *,
    data_dir: MaybePath = None,
    val_fraction: float = 0.2,
    val_split: str = "last",
    test_fraction: float = 0.2,
    image_size: Sequence[int] | None = None,
    resize: str = resize_lib.DEFAULT,
    on_bad_image: str = "refuse",
    class_weights: str = "none",
    streaming: bool | None = None,
    decode_crop: float = 0.0,
    seed: int = 0,
    place: str | None = None,
    class_names: Sequence[str] = (),
    holds_out: bool = False,
    cache_dir: MaybePath = None,
    log: Log = print,
) -> Dataset:
    """Loads a dataset, memory-mapped from the cache where it was decoded before.

    The test split is the source's own, or its validation split where it has no other, or none with
    labels; without either, `test_fraction` of each class. The validation split is the source's own
    where it also has such a test split; otherwise it is split from train by `val_fraction`,
    `val_split` and `seed`, see `eanet.data.splits.split_validation`.

    All images get a height and width by `image_size` and `resize`, see `eanet.data.resize`; None
    where all have one size. Files of a folder that cannot be read are refused, or with `"skip"` as
    `on_bad_image` left out. `class_weights="balanced"` asks for `Dataset.class_weights`, see
    `eanet.data.splits.balanced_weights`. `class_names`, where a run has recorded these very
    classes, is the order to give them in; `holds_out`, that its validation was a part of train.

    The name is of `eanet.data.sources.SOURCES`, as in `folder:PATH`, or of TFDS; what TFDS has
    prepared lies in `data_dir`, by default TFDS_DATA_DIR or ~/tensorflow_datasets. While `place`,
    where the dataset was when it was loaded before (`Dataset.place`), is there, it is read in place
    of what these say. `cache_dir` is by default `$XDG_CACHE_HOME/eanet` or `~/.cache/eanet`.

    Images that half of this machine's memory would not hold stay in their files, as
    `eanet.data.stored.StoredImages`; with `streaming` those of every source do that can be read one
    by one, or none. With `decode_crop`, which needs them and `image_size`, training sees of each
    image a random part of so much of its area at least, see `Dataset.crops`.

    Raises:
        UserError: the dataset cannot be had, read or split as asked; nothing is left half done.
    """
    if decode_crop and not (streaming and image_size):
        lacking = "dataset.image_size" if streaming else "dataset.streaming=True"
        raise UserError(
            f"dataset.decode_crop={decode_crop:g} needs {lacking}: the part is taken of the image "
            "in its file, in every epoch anew; else use augment.random_resized_crop"
        )
    wanted = Wanted(
        image_size=_size(image_size),
        resize=resize,
        test_fraction=test_fraction,
        skip_bad=on_bad_image == "skip",
        streaming=streaming,
        holds_out=holds_out,
    )
    decoded = decode(name, data_dir, place, cache_dir, log, wanted)
    decoded = _in_order(decoded, class_names)
    train, val = decoded.splits["train"], decoded.splits.get("val")
    if val is None:
        train, val = splits.split_validation(train, val_fraction, val_split, seed)
    if decode_crop and not isinstance(train.images, StoredImages):
        raise UserError(
            f"dataset.decode_crop={decode_crop:g} is for images in files, which {name} has not; "
            "use augment.random_resized_crop"
        )
    mean, std = splits.channel_statistics(train.images)
    weights = None
    if class_weights == "balanced":
        weights = splits.balanced_weights(train.labels, len(decoded.class_names))
    return Dataset(
        name=name,
        train=train,
        val=val,
        test=decoded.splits["test"],
        class_names=decoded.class_names,
        mean=mean,
        std=std,
        fingerprints={"val": decoded.fingerprints["train"], **decoded.fingerprints},
        place=decoded.place,
        bits=decoded.bits,
        resize=resize,
        skipped=decoded.skipped,
        class_weights=weights,
        crops=Crops(train.images, decode_crop, seed) if decode_crop else None,
        tested_on=decoded.tested_on,
    )


def load_part(
    name: str,
    part: str,
    *,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
    bits: int | None = None,
    image_size: Sequence[int] | None = None,
    resize: str = resize_lib.DEFAULT,
    test_fraction: float = 0.2,
    on_bad_image: str = "refuse",
    streaming: bool | None = None,
    data_dir: MaybePath = None,
    place: str | None = None,
    log: Log = print,
) -> Part:
    """Loads one part of a dataset for a model; what became of the others does not matter.

    The part is "train" before anything is held out from it, "test", or "val" of the source's own.
    Its classes are mapped by their names to `class_names`, those of the model; `bits` are those of
    the 16-bit images that the model was trained on, None without such. All else is as for
    `load_dataset`.

    Raises:
        UserError: the part cannot be had or read, or its images or classes are not the model's.
    """
    wanted = Wanted(
        part,
        channels=image_shape[2],
        bits=bits,
        image_size=_size(image_size),
        resize=resize,
        test_fraction=test_fraction,
        skip_bad=on_bad_image == "skip",
        streaming=streaming,
    )
    decoded = decode(name, data_dir, place, None, log, wanted)
    if part not in decoded.splits:
        raise UserError(f"{name} has no {part} split of its own")
    split = decoded.splits[part]
    shape = split.images.shape[1:]
    if shape != image_shape:
        there, here = ("x".join(map(str, sizes)) for sizes in (shape, image_shape))
        raise UserError(f"{name} has images of {there}, but the model takes {here}")
    known = {class_name: index for index, class_name in enumerate(class_names)}
    labels = np.array([known.get(name, -1) for name in decoded.class_names], np.int32)[split.labels]
    if (labels < 0).any():
        unknown = decoded.class_names[split.labels[labels < 0][0]]
        few = ", ".join(class_names[:_FEW]) + (", …" if len(class_names) > _FEW else "")
        raise UserError(
            f"{name} has images of the class {unknown!r}, which the model does not know; it knows "
            f"{few}"
        )
    return Part(Split(split.images, labels), decoded.fingerprints[part], decoded.place)


def _size(image_size: Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of a config, which JSON may have made a list."""
    rules.check({"image_size": RULES["image_size"]}, {"image_size": image_size}, "dataset.")
    return None if image_size is None else (image_size[0], image_size[1])


def _in_order(decoded: Decoded, class_names: Sequence[str]) -> Decoded:
    """The same with its classes in this order, where it has just these."""
    names = tuple(class_names)
    if names == decoded.class_names or sorted(names) != sorted(decoded.class_names):
        return decoded
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of[name] for name in decoded.class_names], np.int32)
    parts = {
        part: Split(split.images, labels[split.labels]) for part, split in decoded.splits.items()
    }
    return replace(decoded, splits=parts, class_names=names)
