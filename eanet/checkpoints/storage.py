"""A tree of arrays as a directory; the only place that knows Orbax.

Its plain functions are all we take: names, retention and atomicity, CheckpointManager's part, are
ours.
"""

import errno
import functools
import hashlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

# Orbax and TensorStore take other paths for patterns ("["), other separators ("\\") or places in a
# cloud ("gs:"), or want Unicode.
_PLAIN = re.compile(r"[\w./=,+ -]*", re.ASCII)


def save(path: Path, state: Any) -> None:
    """Writes a tree of NumPy arrays to a new directory; raises whatever Orbax does."""
    _quieten()
    from orbax.checkpoint import v1  # when it is needed first: it takes half a second

    with _plain(path) as plain, v1.Context(multiprocessing_options=_alone()):
        v1.save(plain, state)


def load(path: Path, like: Any) -> Any:
    """Reads it back, in the form of `like`, or as it was saved where that is None."""
    from orbax.checkpoint import v1

    with _plain(path) as plain, v1.Context(multiprocessing_options=_alone()):
        return v1.load(plain, like)


def to_host(state: Any) -> Any:
    """A copy of a tree of arrays, as arrays of NumPy."""
    for leaf in jax.tree.leaves(state):
        leaf.copy_to_host_async()
    # On CPU np.asarray and jax.device_get alias the buffer that the next step wants to reuse.
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


def place(host: np.ndarray, like: Any) -> jax.Array:
    """A copy of an array with the sharding of another, on the default device without one."""
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        return jax.numpy.array(host, copy=True)
    # Given the whole array, device_put would make all CPU devices share one buffer, that of `host`.
    parts = [
        jax.device_put(np.array(host[index], copy=True), device)
        for device, index in sharding.addressable_devices_indices_map(host.shape).items()
    ]
    return jax.make_array_from_single_device_arrays(host.shape, sharding, parts)


def named(tree: Any) -> dict[str, Any]:
    """Every leaf by its name, such as "params/head/bias"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def forms(tree: Any) -> dict[str, str]:
    """Name → dtype and shape of every leaf, such as `"params/head/bias": "float32[100]"`."""
    return {
        name: f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}" for name, leaf in named(tree).items()
    }


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of tensors: of names, types, shapes and bytes, in the order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        found.update(tensor.tobytes())
    return found.hexdigest()


def _alone() -> Any:
    """Options by which this process saves and loads by itself, whether or not there are others."""
    from orbax.checkpoint import v1
    from orbax.checkpoint.experimental.v1._src.saving import execution

    if jax.process_count() == 1:
        return None
    # Asks all processes for their paths, also those that are not active.
    execution._check_directory_consistency = lambda _: None
    here = jax.process_index()
    return v1.options.MultiprocessingOptions(primary_host=here, active_processes={here})


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """A path that leads to the same place and holds nothing that Orbax would interpret."""
    path = path.absolute()
    if _PLAIN.fullmatch(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="eanet-") as directory:
        link = Path(directory).absolute() / "link"
        if not _PLAIN.fullmatch(str(link)):
            advice = "set TMPDIR to a directory of letters and digits for those of another path"
            raise OSError(errno.EINVAL, f"{link} cannot stand for {path}; {advice}")
        link.symlink_to(path.parent, target_is_directory=True)
        yield link / path.name


@functools.cache
def _quieten() -> None:
    """Keeps off the terminal what Orbax says besides the error that it raises."""
    from absl import logging as absl_logging

    inside = f"{os.sep}orbax{os.sep}"
    absl_logging.get_absl_logger().addFilter(lambda record: inside not in record.pathname)
    # Orbax alone uses asyncio here. Of a save that failed, and has been reported, it leaves any
    # number of tasks and futures behind that nobody asks how they ended.
    unasked = "exception was never retrieved"
    logging.getLogger("asyncio").addFilter(lambda record: unasked not in record.getMessage())
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        # What TensorStore prints for every array of a save that has failed, and been reported.
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = report_others
