"""A plain folder of images: `train/CLASS/*.png` with `test/CLASS/…` or `val/CLASS/…`.

- The classes are the folders under `train`, sorted by name; one name in two Unicode forms is one
  class. What is hidden, or left by a desktop or an archiver, is ignored and counted; anything else
  that is no image is an error, so that no example goes missing unnoticed.
- Where only `val` exists it is the held-out test split (as in ImageNet's layout).
- All images must have one size. They become one channel if every one of them is greyscale, else
  RGB, see `eanet.data.images`. All 16-bit images have one scale, that of the largest value.
- The order of the examples is a hash of their paths: fixed, and any tail is a fair sample.
"""

import hashlib
import os
import stat
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from eanet.data import images as images_lib
from eanet.data.base import Decoded, Source, Split, Wanted, budget, empty_images, fingerprint
from eanet.data.images import Header
from eanet.errors import UserError

# Left by desktops, archivers and file systems, in lower case; names with a dot first are too.
_SYSTEM_FILES = {
    "__macosx",
    "#recycle",
    "$recycle.bin",
    "@eadir",
    "desktop.ini",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "icon\r",
    "lost+found",
    "system volume information",
    "thumbs.db",
    "thumbs.db:encryptable",
}


def folder_source(path: str, wanted: Wanted) -> Source:
    """Lists the folder; the images are only opened by `Source.read`.

    Raises:
        UserError: no such folder, or not the layout above.
    """
    root = Path(os.path.realpath(os.path.expanduser(path)))
    if not path or not os.path.isdir(root):
        raise UserError(f"folder:{path}: there is no such folder; write folder:PATH")
    ignored: Counter[str] = Counter()
    _entries(root, ignored)
    parts = _parts(root, wanted.part)
    classes = _entries(parts[wanted.part or "train"], Counter())
    class_names = tuple(sorted({_class_name(entry) for entry in classes}))
    label_of = {name: label for label, name in enumerate(class_names)}
    files: dict[str, list[tuple[Path, int]]] = {}
    stats: list[tuple[str, os.stat_result]] = []
    for part, folder in parts.items():
        files[part] = []
        for entry in _entries(folder, ignored):
            if not os.path.isdir(entry.path):
                raise UserError(f"{entry.path} lies beside the class folders; move it away")
            label = label_of.get(_class_name(entry))
            if label is None:
                raise UserError(f"{entry.path}: there is no class {entry.name!r} in train")
            for file, result in _images(Path(entry.path), ignored):
                files[part].append((file, label))
                stats.append((os.path.relpath(file, root), result))
        if not files[part]:
            raise UserError(f"{folder} holds no class folders with images")
        files[part].sort(
            key=lambda pair: hashlib.sha256(os.fsencode(pair[0].relative_to(root))).digest()
        )
    notes: tuple[str, ...] = ()
    if ignored:
        names = ", ".join(name for name, _ in ignored.most_common(3))
        count = f"{ignored.total():,}"
        notes = (f"ignored {count} hidden files or files of the system, such as {names}",)
    only = f":{wanted.part}:{wanted.channels}:{wanted.bits}" if wanted.part else ""
    return Source(
        f"folder:{root.name}",
        f"folder:{root}{only}",
        fingerprint(stats),
        lambda: _read(root, files, class_names, wanted, notes),
        str(root),
    )


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or left by a desktop, an archiver or a file system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _parts(root: Path, only: str | None) -> dict[str, Path]:
    parts = {part: root / part for part in ("train", "val", "test") if os.path.isdir(root / part)}
    if "test" not in parts and "val" in parts and only != "val":
        parts["test"] = parts.pop("val")
    if only is None and not {"train", "test"} <= parts.keys():
        raise UserError(f"{root} must hold train/CLASS/*.png and test/CLASS/… or val/CLASS/…")
    if only is not None and only not in parts:
        raise UserError(f"{root} must hold {only}/CLASS/*.png")
    return parts if only is None else {only: parts[only]}


def _class_name(folder: os.DirEntry[str]) -> str:
    return unicodedata.normalize("NFC", folder.name)


def _entries(folder: Path, ignored: Counter[str]) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, without what is ignored."""
    entries = []
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if is_ignored(entry.name):
                    ignored[entry.name] += 1
                else:
                    entries.append(entry)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    return sorted(entries, key=lambda entry: entry.name)


def _images(folder: Path, ignored: Counter[str]) -> list[tuple[Path, os.stat_result]]:
    """The files of one class. Never descends, so that no loop of links can hold it."""
    images = []
    for entry in _entries(folder, ignored):
        try:
            result = entry.stat()
        except OSError as error:
            raise UserError(f"{entry.path} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(result.st_mode):
            raise UserError(f"{entry.path} is not a file; move it away")
        images.append((Path(entry.path), result))
    if not images:
        raise UserError(f"{folder} holds no images; add some or remove the class")
    return images


@images_lib.quietly()
def _read(
    root: Path,
    files: dict[str, list[tuple[Path, int]]],
    class_names: tuple[str, ...],
    wanted: Wanted,
    notes: tuple[str, ...],
) -> Decoded:
    paths = [path for listed in files.values() for path, _ in listed]
    headers = _headers(paths, root)
    coloured = [path for path, header in headers.items() if not header.greyscale]
    if coloured and wanted.channels == 1:
        raise UserError(f"{coloured[0]} has colours, but the images must be greyscale")
    first = headers[paths[0]]
    channels = 3 if coloured or wanted.channels == 3 else 1
    pixels = empty_images(len(paths), (first.height, first.width, channels), root)
    workers = images_lib.workers_within(budget() - pixels.nbytes, first.height, first.width)
    deep = [path for path, header in headers.items() if header.deep]
    bits = wanted.bits
    if deep and bits is None:
        bits = images_lib.bits_of(deep, workers)
        scale = f"are divided by {2 ** (bits - 8)}" if bits > 8 else "stay as they are"
        notes += (
            f"{len(deep):,} images have 16 bits a value, of which the largest of all needs {bits}: "
            f"values {scale}",
        )
    for error in images_lib.decode(paths, pixels, bits=bits or 16, workers=workers).values():
        raise error
    labels = np.array([label for listed in files.values() for _, label in listed], np.int32)
    every, splits, start = Split(pixels, labels), {}, 0
    for part, listed in files.items():
        splits[part] = every[start : start + len(listed)]
        start += len(listed)
    return Decoded(splits, class_names, bits=bits if deep else None, notes=notes)


def _headers(paths: list[Path], root: Path) -> dict[Path, Header]:
    """Of images that all have one size, and together not too many pixels to be decoded."""
    first = images_lib.read_header(paths[0])
    empty_images(len(paths), (first.height, first.width, 1), root)
    headers = {paths[0]: first}
    for path in paths[1:]:
        headers[path] = header = images_lib.read_header(path)
        if (header.height, header.width) != (first.height, first.width):
            raise UserError(
                f"all images must have one size: {paths[0]} has {first.width}x{first.height}, "
                f"{path} has {header.width}x{header.height}"
            )
    return headers
