"""Image classification sets by the names of TensorFlow Datasets: found, known, prepared.

Only *preparing* one needs TensorFlow; that runs in a process of its own.
"""

import difflib
import fnmatch
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eanet import files
from eanet.data.base import Log, MaybePath, Source, Wanted, fingerprint
from eanet.data.tfds_files import (
    UNLABELLED,
    is_divided,
    read_info,
    read_prepared,
    storage,
    validation_is_test,
)
from eanet.errors import UserError

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_REQUEST = re.compile(
    r"(?P<name>[a-z][\w-]{,99})(/(?P<config>\w[\w.+-]{,99}))?"
    r"(:(?P<version>[\d*]{1,9}(\.[\d*]{1,9}){2}))?",
    re.ASCII | re.IGNORECASE,
)
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


def tfds_dir(data_dir: MaybePath) -> Path:
    """Where prepared datasets are looked for: the argument, TFDS_DATA_DIR, or TFDS's default.

    Raises `UserError` where a directory was named and does not exist.
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
    return files.home() / "tensorflow_datasets"


def prepared_source(request: Request, root: Path, wanted: Wanted) -> Source | None:
    """The newest prepared version of a dataset under `root`; None where there is none.

    `root` may also be the dataset's own directory, or that of one version. Raises `UserError` where
    several configs are prepared and the request names none.
    """
    try:
        folder = _prepared_folder(request, root)
        if folder is None:
            return None
        found = [(entry.name, entry.stat()) for entry in os.scandir(folder)]
    except OSError as error:
        raise UserError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    only = f":{wanted.part}" if wanted.part else ""
    divided = "" if is_divided(folder) else f":test{wanted.test_fraction:g}"
    reason = validation_is_test(folder, wanted.part)
    if reason == UNLABELLED:
        # A copy in the cache may be older than this rule, and hold a test split without labels.
        divided = ":validation"
    # One without a version in its request is the same source when a newer one appears.
    return Source(
        str(request),
        f"tfds:{folder.parent}:{request}{only}{divided}",
        fingerprint(found) + folder.name,
        lambda: read_prepared(folder, wanted),
        str(folder.absolute()),
        storage(folder, wanted),
        (f"its validation split is tested on: {reason}",) if reason else (),
        "validation" if reason else "test",
    )


def _prepared_folder(request: Request, root: Path) -> Path | None:
    info = read_info(root)
    if info.get("name") == request.name:
        # Prepared directories are NAME/CONFIG/VERSION, or NAME/VERSION.
        config = request.config in (None, info.get("configName") or root.parent.name)
        return root if config and _is(info.get("version"), request.version) else None
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
        if _VERSION.fullmatch(path.name) and _is(path.name, version) and read_info(path)
    ]
    return max(found, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def _is(version: Any, wanted: str) -> bool:
    return fnmatch.fnmatch(str(version), wanted)


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


def has_tensorflow() -> bool:
    """Whether `prepare` can do anything."""
    return importlib.util.find_spec("tensorflow") is not None


def prepare(request: Request, root: Path, log: Log) -> str | None:
    """Downloads and prepares a dataset under `root`, by TensorFlow in another process.

    Returns None when it is prepared, else why it is not, as part of a sentence.
    """
    if not has_tensorflow():
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
