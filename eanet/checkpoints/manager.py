"""Checkpoints that are either whole or not there."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eanet.checkpoints import explain, storage
from eanet.checkpoints.layout import STATE, CheckpointFiles, Metadata, best_of, one_line, step_of
from eanet.checkpoints.manifest import Damaged
from eanet.errors import UserError
from eanet.workdir.log import best_validation, parse

Log = Callable[[str], object]


@dataclass(frozen=True)
class _Save:
    """One call of `save`, until it is known to have succeeded."""

    metadata: Metadata
    state: Any
    future: Future[None]


class Checkpoints:
    """The checkpoints of one run: the latest, and the best on validation.

    One process writes (a run holds a lock on its workdir); others may `restore` meanwhile. As a
    context manager it waits, on leaving, for what is still being written.

    Args:
      directory: where the checkpoints are; made by the first save, its parent must exist.
      log: called with one line, in the caller's thread, for everything a person should know.
      config: key → value; what may shape the state is saved with it, and told where it differs.
    """

    def __init__(
        self, directory: str | Path, *, log: Log = print, config: Mapping[str, Any] | None = None
    ):
        self._files = CheckpointFiles(Path(directory))
        self._log = log
        self._config = explain.shaping(config or {})
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._saves: deque[_Save] = deque()
        self._has_read_back = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, state: Any, *, val_accuracy: float | None = None, history: str = ""
    ) -> None:
        """Saves a pytree of arrays in the background; returns once its values are on the host.

        Only the latest checkpoint and the one with the largest `val_accuracy` are kept: a fraction;
        the earliest of equals; NaN counts as not validated. A step that has been saved is not
        written again, but takes on a `val_accuracy` that was not known before. `history` is what
        has been logged by now, to be kept with it.

        One save may wait behind another. A further one takes its place or, where it has been
        validated, waits here.

        Raises:
          UserError: an earlier save failed, and failed again when repeated.
        """
        newest = self._saves[-1] if len(self._saves) > 1 else None
        if newest and newest.metadata.val_accuracy is None and newest.future.cancel():
            self._saves.pop()
        self._collect(at_most=1)
        value = math.nan if val_accuracy is None else float(val_accuracy)
        accuracy = value if math.isfinite(value) else None
        if accuracy is None and step in self.steps():
            return
        host = storage.to_host(state)
        metadata = Metadata(step, accuracy, storage.forms(host), self._config, history)
        future = self._writer.submit(self._write, metadata, host)
        self._saves.append(_Save(metadata, host, future))

    def wait(self) -> None:
        """Waits until every save is on the disk; a failed one is reported and repeated once.

        Raises:
          UserError: it failed again; earlier checkpoints are untouched.
        """
        self._collect(at_most=0)

    def close(self) -> None:
        """Waits as `wait` does, then ends the background thread."""
        with self._writer:
            self.wait()

    def steps(self) -> list[int]:
        """Steps of the checkpoints on the disk, oldest first; their files are not verified."""
        return list(self._files.survey()[0])

    def find(self, which: str | int) -> int:
        """The step that a user means by `"best"`, `"latest"` or a number.

        Where nothing has been validated, the latest is the best. Raises `UserError` where there is
        none, or where it cannot be told because of damage.
        """
        self.wait()
        step = step_of(str(which))
        if step is None and which not in ("best", "latest"):
            raise UserError(f"a checkpoint is called best, latest or by its step, not {which!r}")
        readable, unreadable = self._files.survey()
        if step is None:
            # One that says nothing of itself might be the one that is meant.
            newest = max(readable, default=-1) if which == "latest" else -1
            for unknown in unreadable:
                if unknown > newest:
                    raise self._refusal(unknown, unreadable[unknown])
            step = best_of(readable.values()) if which == "best" else None
            if which == "best" and readable:
                self._check_best(readable[max(readable)].history, readable.get(step or -1))
            step = max(readable, default=None) if step is None else step
        if step is None:
            raise UserError(f"there is no checkpoint in {self._files.directory}; train first")
        if step not in readable.keys() | unreadable.keys():
            raise UserError(
                f"there is no checkpoint of step {step} in {self._files.directory}; "
                f"steps there: {', '.join(map(str, readable)) or 'none'}"
            )
        return step

    def _check_best(self, history: str, found: Metadata | None) -> None:
        """Refuses the best of those that are left, where the history knows a better one.

        Every validated state is saved, and the best is kept. Where a start has set it aside as
        damaged, which it has said, that is said once more.
        """
        best = best_validation(parse(history))
        if best is None or (found and (found.val_accuracy or 0.0) >= best["accuracy"] - 1e-9):
            return
        lost = (
            f"the checkpoint of step {best['step']}, the best on validation with "
            f"{100 * best['accuracy']:.2f} %,"
        )
        if list(self._files.directory.glob(f"damaged-{best['step']}*")):
            self._log(f"{lost} was damaged: the best that is left is taken")
            return
        raise UserError(
            f"{lost} is not in {self._files.directory}; put it back, or say which one you mean by "
            "--checkpoint=latest or --checkpoint=STEP"
        )

    def restore(self, which: str | int, like: Any) -> tuple[int, Any]:
        """A saved state, verified, and its step; changes nothing on the disk.

        Args:
          which: as `find` takes it.
          like: the same pytree of `jax.ShapeDtypeStruct`s or arrays, whose shardings the restored
            ones have (the default device where there is none); these own their buffers.

        Raises:
          UserError: the checkpoint is missing, damaged, not ours, or does not fit `like`.
        """

        def read(metadata: Metadata) -> Any:
            self._refuse_mismatch(metadata, metadata.tensors, like)
            return self._load(metadata, like)

        return self._reading(which, read)

    def restore_eval_params(self, which: str | int, like: Any) -> tuple[int, Any]:
        """The moving average of a saved state, else its parameters, in NumPy; and its step.

        They have the form of `like`, parameters or their shapes; raises as `restore` does.
        """

        def read(metadata: Metadata) -> Any:
            average = any(name.startswith("ema/") for name in metadata.tensors)
            part = "ema/" if average else "params/"
            there = {
                f"params/{name.removeprefix(part)}": form
                for name, form in metadata.tensors.items()
                if name.startswith(part)
            }
            self._refuse_mismatch(metadata, there, {"params": like})
            saved = storage.named(self._read(metadata, None))
            values = [np.asarray(saved[part + name]) for name in storage.named(like)]
            return jax.tree.unflatten(jax.tree.structure(like), values)

        return self._reading(which, read)

    def arrays(self, which: str | int) -> dict[str, np.ndarray]:
        """Every tensor of a saved state by its name, verified; raises as `restore` does."""
        _, saved = self._reading(which, lambda metadata: self._read(metadata, None))
        return {name: np.asarray(leaf) for name, leaf in storage.named(saved).items()}

    def restore_newest(self, like: Any) -> tuple[int, Any, str] | None:
        """The newest good checkpoint as `(step, state, history)`; None where there is none.

        Damaged checkpoints are renamed to `damaged-STEP`, what a killed save left behind is
        removed, and both are logged. Only for the process that trains.

        Raises:
          UserError: the newest good checkpoint does not fit `like`, or the directory holds
            something else or of a newer version. Then nothing has been touched.
        """
        self.wait()
        newest: Metadata | None = None
        damaged: dict[int, Damaged] = {}
        for step in self._files.candidates():
            try:
                newest = self._files.verified(step)
            except Damaged as reason:
                damaged[step] = reason
        if newest is not None:
            self._refuse_mismatch(newest, newest.tensors, like)
        try:
            for step, why in damaged.items():
                self._log(f"checkpoint of step {step} is damaged ({why})")
                self._log(f"set aside as {self._files.set_aside_damaged(step)}")
            if remains := self._files.clear_remains():
                self._log(f"removed what killed saves of checkpoints left: {', '.join(remains)}")
        except OSError as error:
            self._log(f"{self._files.directory} cannot be tidied up ({one_line(error)})")
        if damaged:
            start = f"step {newest.step}" if newest else "the beginning, for no good one is left"
            self._log(f"going on from {start}")
        if newest is None:
            return None
        return newest.step, self._load(newest, like), newest.history

    def _reading(self, which: str | int, read: Callable[[Metadata], Any]) -> tuple[int, Any]:
        while True:
            step = self.find(which)
            try:
                return step, read(self._files.verified(step))
            except (Damaged, UserError) as reason:
                # Training may have removed it meanwhile; then there is a newer one.
                if self._files.path(step).exists():
                    raise self._refusal(step, reason) from reason

    def _refusal(self, step: int, reason: Exception) -> UserError:
        if isinstance(reason, UserError):
            return reason
        return UserError(
            f"checkpoint {self._files.path(step)} is damaged ({reason}); "
            "choose another by its step, or train again to go on from the newest good one"
        )

    def _refuse_mismatch(self, metadata: Metadata, there: Mapping[str, str], like: Any) -> None:
        # Orbax itself restores an array of another shape without a word.
        here = storage.forms(like)
        if mismatch := explain.mismatch(there, here, metadata.config, self._config):
            raise UserError(
                f"checkpoint {self._files.path(metadata.step)} does not fit this config: "
                f"{mismatch}; use the config it was trained with, or another workdir"
            )

    def _load(self, metadata: Metadata, like: Any) -> Any:
        empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        return jax.tree.map(storage.place, self._read(metadata, empty), like)

    def _read(self, metadata: Metadata, like: Any) -> Any:
        path = self._files.path(metadata.step)
        try:
            return storage.load(path / STATE, like)
        except Exception as error:
            raise UserError(
                f"checkpoint {path} is whole but cannot be read ({one_line(error)}); "
                "mend that, or install the packages of requirements.txt"
            ) from error

    def _collect(self, at_most: int) -> None:
        """Looks at the saves that have ended; blocks until no more than `at_most` have not."""
        while self._saves and (len(self._saves) > at_most or self._saves[0].future.done()):
            error = self._saves[0].future.exception()
            save = self._saves.popleft()
            if error is not None:
                self._repeat(save, error)

    def _repeat(self, save: _Save, error: BaseException) -> None:
        step = save.metadata.step
        self._log(f"checkpoint of step {step} not saved ({one_line(error)}); trying again")
        again = self._writer.submit(self._write, save.metadata, save.state).exception()
        if again is None:
            self._log(f"checkpoint of step {step} saved")
            return
        latest = max(self.steps(), default=None)
        safe = "there is none before it" if latest is None else f"that of step {latest} is intact"
        raise UserError(
            f"checkpoint of step {step} could not be saved in {self._files.directory} "
            f"({one_line(again)}); {safe}; make room or make it writable, then start again"
        ) from again

    def _write(self, metadata: Metadata, state: Any) -> None:
        """Runs in the background thread: one at a time, in order."""
        step = metadata.step
        if step in self._files.candidates():
            try:
                self._files.add_accuracy(metadata)
            except Damaged:
                self._files.set_aside_damaged(step)
        if step not in self._files.candidates():
            self._files.write(metadata, lambda path: self._write_state(path, state))
        self._files.remove_all_but_latest_and_best()

    def _write_state(self, path: Path, state: Any) -> None:
        storage.save(path, state)
        if not self._has_read_back:  # once, to find what would make all of them unreadable
            again = storage.named(storage.load(path, state))
            for name, leaf in storage.named(state).items():
                if again[name].tobytes() != leaf.tobytes():
                    raise RuntimeError(f"{name} was not read back as it was written")
            self._has_read_back = True
