"""The names of files: which of them are no one's examples, and in which order people count them."""

import os
import re

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

# Endings and names of what describes images and lies beside them: no damaged image is meant.
_TEXTS = {".csv", ".htm", ".html", ".json", ".jsonl", ".log", ".md", ".pdf", ".rst", ".tsv"}
_TEXTS |= {".txt", ".xml", ".yaml", ".yml"}
_TEXTS |= {"authors", "citation", "copying", "licence", "license", "readme"}


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or left by a desktop, an archiver or a file system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def is_text(name: str) -> bool:
    """Whether a file is a text about images, by its name."""
    return not _TEXTS.isdisjoint((name.lower(), os.path.splitext(name.lower())[1]))


def natural(name: str) -> tuple[str, str]:
    """Sorts 9 before 10: before the digits of a number stands how many they are."""

    def counted(number: re.Match[str]) -> str:
        digits = number[0].lstrip("0")
        return f"{len(digits):03}{digits}"

    return re.sub("[0-9]+", counted, name), name
