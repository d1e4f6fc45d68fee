"""Which images are asked for: files, folders, globs and lists become paths, one after another."""

import codecs
import glob
import itertools
import os
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from eanet import files
from eanet.data.base import Log
from eanet.data.file_names import is_ignored, natural
from eanet.data.images import is_image_name
from eanet.errors import UserError

STANDARD_INPUT = "-"
_LIST_ENDING = ".txt"
_WAIT_SECONDS = 0.2  # for more of a list, before a stop is looked for
_LONGEST_LINE = 2**16


class Asked:
    """What is asked for, whose images are found while one goes through them.

    - A file is an image by its ending; one that ends in `.txt` is a list of paths, as is standard
      input, "-": one a line, relative to the working directory.
    - A folder has all images in it and in the folders below, in the order of their names, where
      numbers count as such; the files of a folder come before the folders in it. Links to folders
      are not followed.
    - A glob has what fits it, in the order of names; `**` stands for any folders, and then files
      alone are meant.
    """

    def __init__(self, asked: Sequence[str], warn: Log):
        """Takes what is asked for, as above, and what is told which folders cannot be read.

        Raises `UserError` for what is not there, or is no image.
        """
        self.unreadable = 0  # folders
        self.ignored = 0  # in folders and globs: hidden or no images, such as links to folders
        self.example = ""  # of what was ignored
        self._warn = warn
        self._stopped: Callable[[], object] = lambda: False
        self._sources = [self._source(name) for name in asked]

    def paths(self, stopped: Callable[[], object]) -> Iterator[str]:
        """All images, once; of a list that is still being written until it is `stopped`."""
        self._stopped = stopped
        for source in self._sources:
            yield from source

    def _source(self, name: str) -> Iterable[str]:
        path = os.path.expanduser(name)
        if name == STANDARD_INPUT:
            return self._listed(os.dup(0), "standard input")
        if os.path.isdir(path):
            return self._in_folder(path)
        if os.path.lexists(path):
            if is_image_name(path):
                return [path]
            if not path.lower().endswith(_LIST_ENDING):
                raise UserError(
                    f"--images={name} is not an image, by its ending, and no list of paths, which "
                    f"ends in {_LIST_ENDING}"
                )
            try:
                return self._listed(files.open_regular(path, follow=True), path)
            except OSError as error:
                raise UserError(f"--images={name} cannot be read: {error.strerror}") from None
        if glob.has_magic(path) and (found := _fitting(path)):
            return self._matched(found, files_alone="**" in path)
        what = "nothing fits" if glob.has_magic(path) else "there is no"
        raise UserError(
            f"{what} --images={name}; give an image, a folder, a glob, a list of paths in a "
            f"{_LIST_ENDING} file, or {STANDARD_INPUT} for one on standard input"
        )

    def _matched(self, found: list[str], files_alone: bool) -> Iterator[str]:
        for path in found:
            if os.path.isdir(path):
                yield from () if files_alone else self._in_folder(path)
            elif is_image_name(path):
                yield path
            else:
                self._ignore(path)

    def _in_folder(self, top: str) -> Iterator[str]:
        pending = [top]
        while pending:
            folder, folders, names = pending.pop(), [], []
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if is_ignored(entry.name):
                            self._ignore(entry.name)
                        elif entry.is_dir(follow_symlinks=False):
                            folders.append(entry.name)
                        elif is_image_name(entry.name):
                            names.append(entry.name)
                        else:
                            self._ignore(entry.name)
            except OSError as error:
                self.unreadable += 1
                self._warn(f"{folder} cannot be read: {error.strerror}")
            for name in sorted(names, key=natural):
                yield os.path.join(folder, name)
            folders.sort(key=natural, reverse=True)
            pending += [os.path.join(folder, name) for name in folders]

    def _ignore(self, name: str) -> None:
        self.ignored += 1
        self.example = self.example or name

    def _listed(self, descriptor: int, name: str) -> Iterator[str]:
        for number, line in enumerate(self._lines(descriptor)):
            line = line.removesuffix(b"\r")
            if number == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line or len(line) > _LONGEST_LINE:
                raise UserError(f"{name} is no list of paths, one a line: see line {number + 1}")
            if line.strip():
                yield os.fsdecode(line)

    def _lines(self, descriptor: int) -> Iterator[bytes]:
        """Of what may still be written at its other end; one that is much too long is cut."""
        with os.fdopen(descriptor, "rb"):
            begun, block = b"", b"-"
            while block:
                while not select.select([descriptor], [], [], _WAIT_SECONDS)[0]:
                    if self._stopped():
                        return
                block = os.read(descriptor, _LONGEST_LINE)
                *lines, begun = (begun + block).split(b"\n")
                if not block or len(begun) > _LONGEST_LINE:
                    lines.append(begun)
                    begun = b""
                yield from lines


def _fitting(pattern: str) -> list[str]:
    """What fits a glob, in order; not by way of what is hidden, nor under `**` of links."""
    parts = Path(pattern).parts
    parts += ("*",) if parts[-1] == "**" else ()  # alone it fits files since Python 3.13
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    try:
        found = Path(*fixed).glob(os.path.join(*parts[len(fixed) :]))
        shown = (path for path in found if not any(map(is_ignored, path.parts[len(fixed) :])))
        return sorted(map(str, shown), key=natural)
    except ValueError as error:
        raise UserError(f"--images={pattern}: {error}") from None
