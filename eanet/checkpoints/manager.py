"""Checkpoints that are either whole or not there; the only place that knows Orbax."""

import functools
import logging
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eanet.checkpoints.layout import STATE, CheckpointFiles, Facts, one_line, step_of
from eanet.checkpoints.manifest import Damaged
from eanet.errors import UserError

_NAMED_MISMATCHES = 3


@dataclass(frozen=True)
class _Save:
    """One call of `save`, until it is known to have succeeded."""

    step: int
    state: Any
    val_accuracy: float | None
    future: Future[None]


class Checkpoints:
    """The checkpoints of one run: the latest, and the best on validation.

    One process writes (a run holds a lock on its workdir); others may `restore` meanwhile.
    Used as a context manager it waits, on leaving, for what is still being written.

    Args:
        directory: where the checkpoints are; made by the first save, its parent must exist.
        log: called with one line, in the caller's thread, for everything a person should know.
        explain: of the tensors in a checkpoint and those wanted (name → dtype and shape), what in
            the config makes them differ, for the refusal of a checkpoint that does not fit.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        log: Callable[[str], None] = print,
        explain: Callable[[Mapping[str, str], Mapping[str, str]], list[str]] = lambda *_: [],
    ):
        self._files = CheckpointFiles(Path(directory))
        self._log = log
        self._explain = explain
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._saves: deque[_Save] = deque()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def save(self, step: int, state: Any, *, val_accuracy: float | None = None) -> None:
        """Saves a pytree of arrays in the background; returns once its values are on the host.

        Afterwards only the latest checkpoint and the one with the largest `val_accuracy` (the
        earliest of equals; NaN counts as not validated) are kept. A step that has been saved is
        not written again, but takes on a `val_accuracy` that was not known before.

        One save may wait behind another. A further one takes its place or, where it has been
        validated, waits here.

        Raises:
            UserError: an earlier save failed, and failed again when repeated.
        """
        newest = self._saves[-1] if len(self._saves) > 1 else None
        if newest and newest.val_accuracy is None and newest.future.cancel():
            self._saves.pop()
        self._collect(at_most=1)
        accuracy = None if val_accuracy is None else float(val_accuracy)
        if accuracy is not None and not math.isfinite(accuracy):
            accuracy = None
        if accuracy is None and step in self.steps():
            return
        host = _to_host(state)
        future = self._writer.submit(self._write, step, host, accuracy)
        self._saves.append(_Save(step, host, accuracy, future))

    def wait(self) -> None:
        """Waits until every save is on the disk; a failed one is reported and repeated once.

        Raises:
            UserError: it failed again. Checkpoints that were complete before are untouched.
        """
        self._collect(at_most=0)

    def close(self) -> None:
        """Waits as `wait` does, then ends the background thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def steps(self) -> list[int]:
        """Steps of the checkpoints on the disk, oldest first; their files are not verified."""
        return [facts.step for facts in self._files.readable()]

    def latest(self) -> int | None:
        """The newest of `steps()`."""
        return self._files.latest()

    def best(self) -> int | None:
        """The one of `steps()` with the largest validation accuracy, the earliest of equals."""
        return self._files.best()

    def find(self, which: str) -> int:
        """The step that a user means by `"best"`, `"latest"` or a number.

        Raises:
            UserError: there is none.
        """
        self.wait()
        directory = self._files.directory
        if not self.steps():
            for candidate in self._files.candidates():
                self._verified(candidate)
            raise UserError(f"there is no checkpoint in {directory}; train first")
        named = {"best": self.best(), "latest": self.latest()}
        step = named[which] if which in named else step_of(which)
        if step is None and which in named:
            raise UserError(f"no checkpoint in {directory} has been validated; ask for the latest")
        if step is None:
            raise UserError(f"a checkpoint is called best, latest or by its step, not {which!r}")
        return step

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, verified; changes nothing on the disk.

        Args:
            step: one of `steps()`.
            like: the same pytree of `jax.ShapeDtypeStruct`s or arrays. The restored arrays have
                their shardings (the default device where there is none), and own their buffers.

        Raises:
            UserError: the checkpoint is missing, damaged, not ours, or does not fit `like`.
        """
        self.wait()
        if step not in self._files.candidates():
            raise UserError(
                f"there is no checkpoint of step {step} in {self._files.directory}; "
                f"steps there: {', '.join(map(str, self.steps())) or 'none'}"
            )
        return self._load(self._verified(step), like)

    def arrays(self, step: int) -> dict[str, np.ndarray]:
        """Every tensor of the state saved at `step` by its name, verified.

        Raises:
            UserError: the checkpoint is missing, damaged, or not ours.
        """
        facts = self._verified(step)
        saved = self._read(facts, None)
        return {name: np.asarray(leaf) for name, leaf in _named(saved)}

    def restore_newest(self, like: Any) -> tuple[int, Any] | None:
        """The newest good checkpoint as `(step, state)`; None where there is none.

        Damaged checkpoints are renamed to `damaged-STEP`, what a killed save left behind to
        `unfinished-STEP`, and both are logged. Only for the process that trains.

        Raises:
            UserError: the newest good checkpoint does not fit `like`, or the directory holds
                something else or of a newer version. Then nothing has been touched.
        """
        self.wait()
        newest: Facts | None = None
        damaged: dict[int, Damaged] = {}
        for step in self._files.candidates():
            try:
                newest = self._files.verified(step)
            except Damaged as reason:
                damaged[step] = reason
        if newest is not None:
            self._refuse_mismatch(newest, like)
        self._tidy(damaged)
        if damaged:
            start = f"step {newest.step}" if newest else "the beginning, for no good one is left"
            self._log(f"going on from {start}")
        return None if newest is None else (newest.step, self._load(newest, like))

    def _verified(self, step: int) -> Facts:
        try:
            return self._files.verified(step)
        except Damaged as reason:
            raise UserError(
                f"checkpoint {self._files.path(step)} is damaged ({reason}); "
                "choose another, or train again to go on from the newest good one"
            ) from reason

    def _refuse_mismatch(self, facts: Facts, like: Any) -> None:
        # Orbax itself restores an array of another shape without a word.
        here, there = _tensors(like), facts.tensors
        differences = [
            f"{name} is {there.get(name, 'missing')} in the checkpoint "
            f"and {here.get(name, 'missing')} here"
            for name in here | there
            if here.get(name) != there.get(name)
        ]
        if not differences:
            return
        if len(differences) > _NAMED_MISMATCHES:
            more = len(differences) - _NAMED_MISMATCHES
            differences = [*differences[:_NAMED_MISMATCHES], f"and {more} more"]
        differences = [*self._explain(there, here), *differences]
        raise UserError(
            f"checkpoint {self._files.path(facts.step)} does not fit this config: "
            f"{'; '.join(differences)}; use the config it was trained with, or another workdir"
        )

    def _load(self, facts: Facts, like: Any) -> Any:
        self._refuse_mismatch(facts, like)
        empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        return jax.tree.map(_place, self._read(facts, empty), like)

    def _read(self, facts: Facts, like: Any) -> Any:
        path = self._files.path(facts.step)
        try:
            return _orbax().load((path / STATE).absolute(), like)
        except Exception as error:
            raise UserError(
                f"checkpoint {path} cannot be read ({one_line(error)}); "
                "install the packages of requirements.txt, or choose another checkpoint"
            ) from error

    def _collect(self, at_most: int) -> None:
        """Looks at the saves that have ended; blocks until no more than `at_most` have not."""
        while self._saves and (len(self._saves) > at_most or self._saves[0].future.done()):
            error = self._saves[0].future.exception()
            save = self._saves.popleft()
            if error is not None:
                self._repeat(save, error)

    def _repeat(self, save: _Save, error: BaseException) -> None:
        self._log(f"checkpoint of step {save.step} not saved ({one_line(error)}); trying again")
        again = self._writer.submit(self._write, save.step, save.state, save.val_accuracy)
        error_again = again.exception()
        if error_again is None:
            self._log(f"checkpoint of step {save.step} saved")
            return
        latest = self.latest()
        safe = "there is none before it" if latest is None else f"that of step {latest} is intact"
        raise UserError(
            f"checkpoint of step {save.step} could not be saved in {self._files.directory} "
            f"({one_line(error_again)}); {safe}; make room or make it writable, then start again"
        ) from error_again

    def _write(self, step: int, state: Any, val_accuracy: float | None) -> None:
        """Runs in the background thread: one at a time, in order."""
        if step in self._files.candidates():
            try:
                self._files.add_accuracy(step, val_accuracy)
            except Damaged:
                self._files.set_aside_damaged(step)
        if step not in self._files.candidates():
            facts = Facts(step, val_accuracy, _tensors(state))
            self._files.write(facts, lambda path: _orbax().save(path.absolute(), state))
        self._files.remove_all_but_latest_and_best()

    def _tidy(self, damaged: dict[int, Damaged]) -> None:
        try:
            for step, reason in damaged.items():
                self._log(f"checkpoint of step {step} is damaged ({reason})")
                self._log(f"set aside as {self._files.set_aside_damaged(step)}")
            for aside in self._files.clear_remains():
                self._log(f"a killed save of a checkpoint left something; set aside as {aside}")
        except OSError as error:
            self._log(f"{self._files.directory} cannot be tidied up ({one_line(error)})")


@functools.cache
def _orbax() -> Any:
    """Orbax, imported when first needed (it costs half a second) and off the terminal."""
    from absl import logging as absl_logging

    # v1's plain functions: names, retention and atomicity, CheckpointManager's part, are ours.
    from orbax.checkpoint import v1

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
    return v1


def _to_host(state: Any) -> Any:
    for leaf in jax.tree.leaves(state):
        leaf.copy_to_host_async()
    # On CPU np.asarray and jax.device_get alias the buffer that the next step wants to reuse.
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


def _place(host: np.ndarray, like: Any) -> jax.Array:
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        return jax.numpy.array(host, copy=True)
    # Given the whole array, device_put would make all CPU devices share one buffer, that of `host`.
    parts = [
        jax.device_put(np.array(host[index], copy=True), device)
        for device, index in sharding.addressable_devices_indices_map(host.shape).items()
    ]
    return jax.make_array_from_single_device_arrays(host.shape, sharding, parts)


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf with its name, such as "params/head/bias"."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _tensors(tree: Any) -> dict[str, str]:
    """Name → dtype and shape of every leaf, such as `"params/head/bias": "float32[100]"`."""
    return {name: f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}" for name, leaf in _named(tree)}
