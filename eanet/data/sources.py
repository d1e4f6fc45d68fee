"""A dataset name becomes images, labels and class names, from the cache or from their files.

Names are those of `SOURCES`, and those of TFDS, also as `name/config` and `name:version`.
"""

import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from eanet.data import cifar, tfds
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
    check_memory,
)
from eanet.data.cache import cached, default_cache_dir
from eanet.data.digits import digits_source
from eanet.data.folder import folder_source
from eanet.data.survey import streamed, surveyed_bytes
from eanet.errors import NeedsTensorFlow, UserError

# By the name of a dataset: of what is wanted, see `Wanted`. Where the name ends in a colon, an
# argument follows it, which comes first. All other names are those of TFDS.
SOURCES: dict[str, Callable[[str, Wanted], Source]] = {
    "digits": digits_source,
    "folder:": folder_source,
}


def decode(
    name: str, data_dir: MaybePath, place: str | None, cache: MaybePath, log: Log, wanted: Wanted
) -> Decoded:
    """What the source of this name holds, as is wanted; else as of `eanet.data.load.load_dataset`.

    Raises `UserError` where it cannot be had or read.
    """
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


def refuse_unread(data_dir: str, name: str) -> None:
    """Raises `UserError` for a `data_dir` that is asked for with data that does not lie in one."""
    kind, colon, _ = name.partition(":")
    if kind + colon in SOURCES:
        raise UserError(f"data_dir={data_dir} has no effect: {name} is not looked for in one")


def _load_tfds(name: str, data_dir: MaybePath, cache: Path, log: Log, wanted: Wanted) -> Decoded:
    """From a prepared directory, else CIFAR's own archive, else prepared by TensorFlow."""
    request, root = _request(name), tfds.tfds_dir(data_dir)
    source, failed = tfds.prepared_source(request, root, wanted), ""
    if source is None and str(request) in cifar.ARCHIVES:
        try:
            archive = cifar.cifar_source(request.name, root, cache, log)
            return _opened(archive, wanted, cache, log)
        except cifar.DownloadFailed as error:
            log(str(error))
            failed = f"{error}; "
    source = source or _prepare(request, root, data_dir, log, wanted, failed)
    return _opened(source, wanted, cache, log)


def prepare(name: str, data_dir: MaybePath, log: Log, wanted: Wanted) -> Source | None:
    """What TFDS has prepared under this name, or prepares now; undecoded.

    None for a source of another kind, and for CIFAR where its own archive is read.

    Raises:
        NeedsTensorFlow: that alone could prepare it, and is not installed.
        UserError: it cannot be had.
    """
    kind, colon, _ = name.partition(":")
    if kind + colon in SOURCES:
        return None
    request, root = _request(name), tfds.tfds_dir(data_dir)
    source = tfds.prepared_source(request, root, wanted)
    if source or str(request) in cifar.ARCHIVES:
        return source
    return _prepare(request, root, data_dir, log, wanted)


def _request(name: str) -> tfds.Request:
    request = tfds.Request.parse(name)
    if request is None:
        names = ", ".join(f"{known}…" if known[-1] == ":" else known for known in SOURCES)
        raise UserError(
            f"dataset.name={name!r} is no dataset: write {names} or a TFDS name such as "
            "cifar100, name/config or name:1.2.3"
        )
    return request


def _prepare(
    request: tfds.Request,
    root: Path,
    data_dir: MaybePath,
    log: Log,
    wanted: Wanted,
    failed: str = "",
) -> Source:
    """Has TensorFlow prepare a data set; `failed` says what was tried before, if anything."""
    if str(request) not in cifar.ARCHIVES:
        tfds.check_known(request, root, SOURCES)
    failure = tfds.prepare(request, root, log)
    if failure is None and (source := tfds.prepared_source(request, root, wanted)):
        return source
    failure = failure or "TensorFlow prepared something else"
    where = f" DATA_DIR={shlex.quote(os.fspath(data_dir))}" if data_dir else ""
    refusal = UserError if tfds.has_tensorflow() else NeedsTensorFlow
    raise refusal(
        f"{request} is not prepared in {root}; {failed}{failure}. Ways out: `make prepare "
        f"DATASET={request}{where}` once, which installs TensorFlow for it "
        "(requirements-prepare.txt); or dataset.data_dir=DIR that holds it prepared; or the "
        "embedded set, --config=configs/eanet_digits.py"
    )


def _opened(source: Source, wanted: Wanted, cache: Path, log: Log) -> Decoded:
    """The source decoded as a whole, or with images that stay where they are, as is wanted."""
    for note in source.notes:
        log(f"{source.name}: {note}")
    decoded = _read(_sized(source, wanted), wanted, cache, log)
    return replace(decoded, tested_on=source.tested_on)


def _read(source: Source, wanted: Wanted, cache: Path, log: Log) -> Decoded:
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
        images = np.empty((len(split), *size, channels), np.uint8)
        for place, image in zip(images, split.images, strict=True):
            fitted = resize_lib.fit(
                Image.fromarray(image[..., 0] if channels == 1 else image), size, how
            )
            place[:] = np.asarray(fitted).reshape(place.shape)
        return Split(images, split.labels)

    def read() -> Decoded:
        decoded = source.read()
        channels = next(iter(decoded.splits.values())).images.shape[3]
        count = sum(map(len, decoded.splits.values()))
        check_memory(count, (*size, channels), source.name)
        parts = {part: sized(split) for part, split in decoded.splits.items()}
        return replace(decoded, splits=parts)

    height, width = size
    return replace(source, identity=f"{source.identity}:{height}x{width}:{how}", read=read)
