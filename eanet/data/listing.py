"""The image files of a data set of one's own, with classes and parts; none of them is opened.

- `train/CLASS/…` with `test/CLASS/…` or `val/CLASS/…`. Where only `val` exists it is the held-out
  test split (as in ImageNet's layout).
- `CLASS/…` alone, or a table without splits (`eanet.data.table`): some of each class are the test
  split, by a fixed draw over the paths, so that all seeds of a config are tested on the same images
  and more images move few of the others.

Folders below a class belong to it. What is hidden, or left by a desktop or an archiver, texts and
empty folders are ignored and counted, and folders beside those of the parts are named. Classes are
in their natural order, 9 before 10; one name in two Unicode forms is one class. The order of the
examples is a hash of their paths: fixed, and any tail is a fair sample.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from eanet.data import table
from eanet.data.base import Wanted, fingerprint
from eanet.data.file_names import is_ignored, is_text, natural
from eanet.data.splits import held_out_count
from eanet.errors import UserError

_PARTS = ("train", "val", "test")
_VAL_NAMES = ("val", "validation", "valid")  # of a folder, whatever it is called here
# What people call parts of a data set that are divided beforehand.
_PART_NAMES = {*_PARTS, "dev", "eval", "holdout", "testing", "training", "valid", "validation"}

_FEW = 3  # names in a note

# Files of a part, with the class of each.
Files = list[tuple[Path, str]]


@dataclass(frozen=True)
class Ignored:
    """What lies in a folder and is no one's example: counts by name."""

    hidden: Counter[str] = field(default_factory=Counter)  # or left by a desktop or an archiver
    others: Counter[str] = field(default_factory=Counter)  # texts, and folders without images
    beside: Counter[str] = field(default_factory=Counter)  # the folders of the parts

    def notes(self) -> tuple[str, ...]:
        """A line for each kind that there is."""
        kinds = {
            "ignored {} hidden files or files of the system, such as {}": self.hidden,
            "ignored {} texts or empty folders, such as {}": self.others,
            "not read, {} beside the folders of train and test: {}": self.beside,
        }
        return tuple(
            note.format(f"{names.total():,}", ", ".join(n for n, _ in names.most_common(_FEW)))
            for note, names in kinds.items()
            if names
        )


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, or stands in a table."""

    place: Path  # the folder or the table, absolute and without links
    parts: dict[str, Files]  # "train", "test" and, where it has its own, "val"; or one alone
    class_names: tuple[str, ...]
    lines: dict[Path, int]  # in which line of the table a file stands
    divided: bool  # whether it says itself which images are for the test
    ignored: Ignored = field(default_factory=Ignored)
    tested_on: str = "test"  # the folder of the part "test"

    @property
    def root(self) -> Path:
        """The folder that all files lie below."""
        return self.place.parent if self.lines else self.place

    @property
    def fingerprint(self) -> str:
        """Changes whenever a file does, or their classes and parts."""
        files = {path for listed in self.parts.values() for path, _ in listed}
        found = [(os.path.relpath(path, self.root), _stat(path)) for path in files]
        if self.lines:
            found.append((self.place.name, _stat(self.place)))
        digest = fingerprint((name, stat) for name, stat in found if stat)
        if missing := sorted(name for name, stat in found if not stat):
            digest += ":" + hashlib.sha256(os.fsencode("\0".join(missing))).hexdigest()
        # Copies of before there was a natural order are right where it is that of the letters.
        return digest + ("" if sorted(self.class_names) == list(self.class_names) else ":natural")


def list_images(path: str, wanted: Wanted) -> Listing:
    """Lists the images of a folder or a table.

    Raises:
        UserError: there is none, or it is not as above.
    """
    place = Path(os.path.realpath(os.path.expanduser(path)))
    if path and os.path.isdir(place):
        listing = _of_folder(place, wanted)
    elif path and place.suffix.lower() in table.ENDINGS and os.path.exists(place):
        listing = _of_table(place, wanted.part)
    else:
        raise UserError(
            f"folder:{path}: there is no such folder; write folder:PATH of a folder, or of a table "
            f"that ends in {' or '.join(table.ENDINGS)}"
        )
    parts = listing.parts
    if not listing.divided:
        parts = _divided(parts["train"], wanted.test_fraction, listing.root)
    if wanted.part and not parts.get(wanted.part):
        raise UserError(f"{place} has no images of {wanted.part}")
    for part, files in parts.items():
        files.sort(key=lambda file: _hash(file[0], listing.root))
        if not files:
            raise UserError(
                f"{place} has no class of two images, so that none is left to {part} on; add some"
            )
    parts = {part: parts[part] for part in _PARTS if part in parts and wanted.part in (None, part)}
    return replace(listing, parts=parts)


def _of_folder(root: Path, wanted: Wanted) -> Listing:
    only, ignored = wanted.part, Ignored()
    folders = _parts(root, wanted)
    if folders:
        for entry in _entries(root, ignored):
            if Path(entry.path) not in folders.values() and only is None:
                ignored.beside[entry.name] += 1
    else:
        _check_undivided(root)
    listed = {
        part: _classes(folder, ignored, wanted.skip_bad, part)
        for part, folder in (folders or {"train": root}).items()
    }
    known = {name for _, name in listed.get("train") or listed[only or "train"]}
    for part, files in listed.items():
        for path, name in files:
            if name not in known:
                folder = next(up for up in path.parents if up.parent == folders[part])
                raise UserError(f"{folder}: there is no class {name!r} in train")
    names = tuple(sorted(known, key=natural))
    tested_on = folders["test"].name if "test" in folders else "test"
    return Listing(root, listed, names, {}, bool(folders), ignored, tested_on)


def _of_table(place: Path, only: str | None) -> Listing:
    rows = table.read_table(place)
    divided = rows[0].split is not None
    parts: dict[str, Files] = {}
    for row in rows:
        parts.setdefault(row.split or "train", []).append((row.path, row.label))
    if divided:
        if "test" not in parts and "val" in parts and only != "val":
            parts["test"] = parts.pop("val")
        if only is None and not {"train", "test"} <= parts.keys():
            raise UserError(
                f"{place} has splits, and so needs lines of train, and of test or val: it has "
                f"{', '.join(parts)}"
            )
    names = tuple(sorted({row.label for row in rows}, key=natural))
    lines = {row.path: row.line for row in rows}
    return Listing(place, parts, names, lines, divided)


def _divided(files: Files, fraction: float, root: Path) -> dict[str, Files]:
    """So much of each class as the test split, but at least one and never all of its images."""
    by_class: dict[str, list[Path]] = {}
    for path, name in files:
        by_class.setdefault(name, []).append(path)
    parts: dict[str, Files] = {"train": [], "test": []}
    for name, paths in by_class.items():
        paths.sort(key=lambda path: _hash(path, root, draw=b"test draw 1\0"))
        count = held_out_count(len(paths), fraction)
        parts["test"] += [(path, name) for path in paths[:count]]
        parts["train"] += [(path, name) for path in paths[count:]]
    return parts


def _parts(root: Path, wanted: Wanted) -> dict[str, Path]:
    """The folders of the parts by their names; none where the images are not divided."""
    only = wanted.part
    held_out = wanted.holds_out and os.path.isdir(root / "test")
    val_names = _VAL_NAMES[:1] if held_out else _VAL_NAMES
    names = {"train": ["train"], "val": val_names, "test": ["test"]}
    there = {
        part: root / name
        for part in _PARTS
        for name in reversed(names[part])  # the first one counts
        if os.path.isdir(root / name)
    }
    if "test" not in there and "val" in there and only != "val":
        there["test"] = there.pop("val")
    if only in there and _holds_folders(there[only]):
        return {only: there[only]}
    if {"train", "test"} <= there.keys() and only is None:
        return there
    if "train" in there and _holds_folders(there["train"]):
        if only:
            raise UserError(f"{root} must hold {only}/CLASS/*.png")
        raise UserError(
            f"{root} must hold, beside train/CLASS/…, also test/CLASS/… or val/CLASS/…; or name "
            f"folder:{root / 'train'}, of which dataset.test_fraction is then held out"
        )
    return {}


def _check_undivided(root: Path) -> None:
    layouts = "train/CLASS/*.png and test/CLASS/… or val/CLASS/…, or CLASS/*.png alone"
    folders = [entry for entry in _entries(root, Ignored()) if _is_folder(entry)]
    if not folders:
        raise UserError(f"{root} must hold {layouts}")
    for entry in folders:
        if entry.name.lower() in _PART_NAMES and _holds_folders(entry.path):
            raise UserError(
                f"{entry.path} seems to be a part of a data set, but {root} must hold {layouts}"
            )


def _classes(folder: Path, ignored: Ignored, skip_bad: bool, part: str) -> Files:
    """The files of a folder of classes, with their classes."""
    files: Files = []
    entries = _entries(folder, ignored)
    folders = [entry for entry in entries if _is_folder(entry)]
    for entry in entries:
        if entry in folders:
            name = unicodedata.normalize("NFC", entry.name)
            found = _files_below(Path(entry.path), ignored, skip_bad)
            if not found and part == "train":
                raise UserError(f"{entry.path} holds no images; add some or remove it")
            files += [(path, name) for path in found]
        # A list of images that lie in one folder would make that a class, and the only one.
        elif is_text(entry.name) and len(folders) > 1 and not _is_table(entry.name):
            ignored.others[entry.name] += 1
        else:
            hint = f", or name folder:{entry.path}" if _is_table(entry.name) else ""
            raise UserError(f"{entry.path} lies beside the class folders; move it away{hint}")
    if not files:
        raise UserError(f"{folder} holds no class folders with images")
    return files


def _is_table(name: str) -> bool:
    return name.lower().endswith(table.ENDINGS)


def _files_below(folder: Path, ignored: Ignored, skip_bad: bool) -> list[Path]:
    """All files of a class; links to folders are refused, so that no loop of them can hold it.

    Texts too where what cannot be read is skipped: as such they counted before they were ignored,
    and which images are held out depends on how many files there are.
    """
    found, pending = [], [folder]
    while pending:
        folder = pending.pop()
        entries = _entries(folder, ignored)
        if not entries:
            ignored.others[folder.name] += 1
        for entry in entries:
            if not _is_folder(entry):
                if is_text(entry.name) and not skip_bad:
                    ignored.others[entry.name] += 1
                else:
                    found.append(Path(entry.path))
            elif os.path.islink(entry.path):
                raise UserError(f"{entry.path} is a link to a folder; move it away")
            else:
                pending.append(Path(entry.path))
    return found


def _entries(folder: Path, ignored: Ignored) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name, without what is ignored."""
    entries = []
    try:
        with os.scandir(folder) as scan:
            for entry in scan:
                if is_ignored(entry.name):
                    ignored.hidden[entry.name] += 1
                else:
                    entries.append(entry)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None
    return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _holds_folders(path: str | Path) -> bool:
    """Whether there are folders in it, as in a folder of classes."""
    try:
        with os.scandir(path) as scan:
            return any(not is_ignored(entry.name) and _is_folder(entry) for entry in scan)
    except OSError:
        return False


def _stat(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None  # what is missing is told of when the images are read


def _hash(path: Path, root: Path, draw: bytes = b"") -> bytes:
    return hashlib.sha256(draw + os.fsencode(path.relative_to(root))).digest()
