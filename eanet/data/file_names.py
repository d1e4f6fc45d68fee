"""The names of files: which of them are no one's examples, and in which order people count them."""

import os
import re

# Left by desktops, archivers and file systems, in lower case; names with a dot first are too.
_SYSTEM_FILES = {
    "__macosx",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "@eadir",
    "@recently-snapshot",
    "@recycle",
    "@tmp",
    "_gsdata_",
    "desktop.ini",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "icon\r",
    "iconcache.db",
    "lost+found",
    "network trash folder",
    "recycled",
    "recycler",
    "system volume information",
    "temporary items",
    "thumbs.db",
}
# Lost clusters, locks and backups of editors, shortcuts, and what a download adds to a name.
_SYSTEM_NAMES = re.compile(r"found\.\d{3}|~\$.*|#.+#|.+~|.+\.lnk|.+:(zone\.identifier|encryptable)")

# Endings and names of what describes images and lies beside them: no damaged image is meant.
_TEXTS = {".csv", ".htm", ".html", ".json", ".jsonl", ".log", ".md", ".pdf", ".rst", ".tsv"}
_TEXTS |= {".txt", ".xml", ".yaml", ".yml"}
_TEXTS |= {"authors", "citation", "copying", "licence", "license", "readme"}


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or left by a desktop, an archiver or a file system."""
    lower = name.lower()
    known = lower in _SYSTEM_FILES or _SYSTEM_NAMES.fullmatch(lower)
    return bool(known) or name.startswith(".")


def is_text(name: str) -> bool:
    """Whether a file is a text about images, by its name."""
    return not _TEXTS.isdisjoint((name.lower(), os.path.splitext(name.lower())[1]))


def natural(name: str) -> tuple[str, str]:
    """Sorts 9 before 10: before the digits of a number stands how many they are."""

    def counted(number: re.Match[str]) -> str:
        digits = number[0].lstrip("0")
        return f"{len(digits):03}{digits}"

    return re.sub("[0-9]+", counted, name), name
