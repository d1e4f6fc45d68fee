"""A dataset name becomes uint8 arrays, labels and class names.

Names are those of `SOURCES`, and those of TFDS, also as `name/config` and `name:version`.
"""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from eanet import rules
from eanet.data import cifar, splits, tfds
from eanet.data import resize as resize_lib
from eanet.data.base import (
    Decoded,
    Log,
    MaybePath,
    Source,
    Split,
    TooLarge,
    Wanted,
    budget,
    empty_images,
)
from eanet.data.cache import cached, default_cache_dir
from eanet.data.digits import digits_source
from eanet.data.folder import folder_source
from eanet.data.survey import streamed, surveyed_bytes
from eanet.errors import UserError

RULES: dict[str, rules.Rule] = {
    "name": rules.Text(),
    "data_dir": rules.Text(),
    "image_size": rules.OrNothing(rules.Size()),
    "resize": rules.NameIn(resize_lib.RESIZES),
    "on_bad_image": rules.Choice("refuse", "skip"),
    "class_weights": rules.Choice("none", "balanced"),
    "streaming": rules.OrNothing(rules.Switch()),
    **splits.RULES,
}

# By the name of a dataset: of what is wanted, see `Wanted`. Where the name ends in a colon, an
# argument follows it, which comes first. All other names are those of TFDS.
SOURCES: dict[str, Callable[[str, Wanted], Source]] = {
    "digits": digits_source,
    "folder:": folder_source,
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

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
    seed: int = 0,
    place: str | None = None,
    class_names: Sequence[str] = (),
    cache_dir: MaybePath = None,
    log: Log = print,
) -> Dataset:
    """Loads a dataset, memory-mapped from the cache where it was decoded before.

    The test split is the source's own, or its validation split where it has no other; without
    either, `test_fraction` of each class. The validation split is the source's own where it
    also has a test split; otherwise it is split from train by `val_fraction`, `val_split` and
    `seed`, see `eanet.data.splits.split_validation`.

    All images get a height and width by `image_size` and `resize`, see `eanet.data.resize`; None
    where all have one size. Files of a folder that cannot be read are refused, or with `"skip"` as
    `on_bad_image` left out. `class_weights="balanced"` asks for `Dataset.class_weights`, see
    `eanet.data.splits.balanced_weights`. `class_names`, where a run has recorded these very
    classes, is the order to give them in.

    The name is of `SOURCES`, as in `folder:PATH`, or of TFDS; what TFDS has prepared lies in
    `data_dir`, by default TFDS_DATA_DIR or ~/tensorflow_datasets. While `place`, where the dataset
    was when it was loaded before (`Dataset.place`), is a directory, it is read in place of what
    these say. `cache_dir` is by default `$XDG_CACHE_HOME/eanet` or `~/.cache/eanet`.

    Images that half of this machine's memory would not hold stay in their files, as
    `eanet.data.stored.StoredImages`; with `streaming` those of every source do that can be read one
    by one, or none.

    Raises:
        UserError: the dataset cannot be had, read or split as asked; nothing is left half done.
    """
    wanted = Wanted(
        image_size=_size(image_size),
        resize=resize,
        test_fraction=test_fraction,
        skip_bad=on_bad_image == "skip",
        streaming=streaming,
    )
    decoded = _decoded(name, data_dir, place, cache_dir, log, wanted)
    decoded = _in_order(decoded, class_names)
    train, val = decoded.splits["train"], decoded.splits.get("val")
    if val is None:
        train, val = splits.split_validation(train, val_fraction, val_split, seed)
    return Dataset(
        name,
        train,
        val,
        decoded.splits["test"],
        decoded.class_names,
        *splits.channel_statistics(train.images),
        {"val": decoded.fingerprints["train"], **decoded.fingerprints},
        decoded.place,
        decoded.bits,
        resize,
        decoded.skipped,
        splits.balanced_weights(train.labels, len(decoded.class_names))
        if class_weights == "balanced"
        else None,
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
    decoded = _decoded(name, data_dir, place, None, log, wanted)
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


def refuse_unread(data_dir: str, name: str) -> None:
    """Raises `UserError` for a `data_dir` that is asked for with data that does not lie in one."""
    kind, colon, _ = name.partition(":")
    if kind + colon in SOURCES:
        raise UserError(f"data_dir={data_dir} has no effect: {name} is not looked for in one")


def _decoded(
    name: str, data_dir: MaybePath, place: str | None, cache: MaybePath, log: Log, wanted: Wanted
) -> Decoded:
    cache_dir = Path(cache).expanduser() if cache else default_cache_dir()
    place = place if place and os.path.exists(place) else None
    kind, colon, argument = name.partition(":")
    if source := SOURCES.get(kind + colon):
        argument = place if place and colon else argument
        decoded = _opened(source(argument, wanted), wanted, cache_dir, log)
    else:
        decoded = _load_tfds(name, place or data_dir, cache_dir, log, wanted)
    classes = len(decoded.class_names)
    for part, split in decoded.splits.items():
        if split.labels.min() < 0 or split.labels.max() >= classes:
            raise UserError(f"{kind}{colon}{argument}: {part} has labels outside 0..{classes - 1}")
    return decoded


def _opened(source: Source, wanted: Wanted, cache: Path, log: Log) -> Decoded:
    """The source decoded as a whole, or with images that stay where they are, as is wanted."""
    source = _sized(source, wanted)
    never = source.storage is None or wanted.streaming is False
    if never or (wanted.streaming is None and surveyed_bytes(source, cache) <= budget()):
        try:
            return cached(source, cache, log)
        except TooLarge as error:
            if source.storage is None:
                raise
            if never:
                raise UserError(f"{error}, or do without dataset.streaming=False") from None
            log(f"{source.name}: half of the memory holds no more, so images are read every epoch")
    return streamed(source, cache, log)


def _size(image_size: Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of a config, which JSON may have made a list."""
    rules.check({"image_size": RULES["image_size"]}, {"image_size": image_size}, "dataset.")
    return None if image_size is None else (image_size[0], image_size[1])


def _sized(source: Source, wanted: Wanted) -> Source:
    """The source with images of the size that is wanted, if it does not see to that itself."""
    size, how = wanted.image_size, wanted.resize
    if size is None:
        return source

    def sized(split: Split) -> Split:
        from PIL import Image

        channels = split.images.shape[3]
        if split.images.shape[1:3] == size:
            return split
        images = empty_images(len(split), (*size, channels), source.name)
        for place, image in zip(images, split.images, strict=True):
            fitted = resize_lib.fit(
                Image.fromarray(image[..., 0] if channels == 1 else image), size, how
            )
            place[:] = np.asarray(fitted).reshape(place.shape)
        return Split(images, split.labels)

    def read() -> Decoded:
        decoded = source.read()
        parts = {part: sized(split) for part, split in decoded.splits.items()}
        return replace(decoded, splits=parts)

    height, width = size
    return replace(source, identity=f"{source.identity}:{height}x{width}:{how}", read=read)


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


def _load_tfds(name: str, data_dir: MaybePath, cache: Path, log: Log, wanted: Wanted) -> Decoded:
    """From a prepared directory, else CIFAR's own archive, else prepared by TensorFlow."""
    request = tfds.Request.parse(name)
    if request is None:
        names = ", ".join(f"{known}…" if known[-1] == ":" else known for known in SOURCES)
        raise UserError(
            f"dataset.name={name!r} is no dataset: write {names} or a TFDS name such as "
            "cifar100, name/config or name:1.2.3"
        )
    root = tfds.tfds_dir(data_dir)
    if source := tfds.prepared_source(request, root, wanted):
        return _opened(source, wanted, cache, log)
    reasons = [f"{request} is not prepared in {root}"]
    if str(request) in cifar.ARCHIVES:
        try:
            archive = cifar.cifar_source(request.name, root, cache, log)
            return _opened(archive, wanted, cache, log)
        except cifar.DownloadFailed as error:
            log(str(error))
            reasons.append(str(error))
    else:
        tfds.check_known(request, root, SOURCES)
    failure = tfds.prepare(request, root, log)
    if failure is None and (source := tfds.prepared_source(request, root, wanted)):
        return _opened(source, wanted, cache, log)
    reasons.append(failure or "TensorFlow prepared something else")
    where = f" DATA_DIR={shlex.quote(os.fspath(data_dir))}" if data_dir else ""
    raise UserError(
        f"{'; '.join(reasons)}. Ways out: `make prepare DATASET={request}{where}` once, which "
        "installs TensorFlow for it (requirements-prepare.txt); or dataset.data_dir=DIR that holds "
        "it prepared; or the embedded set, --config=configs/eanet_digits.py"
    )
