"""The directory of a run's checkpoints: names, facts, damage and what is kept; no arrays.

A checkpoint is the directory `STEP`: `orbax/` with the state, and `manifest.json` with the step,
its validation accuracy, dtype and shape of every tensor, and the digest of every file. It is
written under another name, `saving-STEP`, and renamed when all of it is on the disk.
"""

import dataclasses
import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from eanet.checkpoints import manifest
from eanet.errors import UserError
from eanet.files import set_aside, sync

STATE = "orbax"
FORMAT = "eanet checkpoint"
VERSION = 1

_SAVING = "saving-"
_REMOVING = "removing-"
_FAILURES_OF_A_DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EIO,
)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a manifest says about its checkpoint; `tensors` maps names to dtype and shape."""

    step: int
    val_accuracy: float | None
    tensors: dict[str, str]
    format: str = FORMAT
    version: int = VERSION


class CheckpointFiles:
    """Everything about checkpoints that can be done without looking into their state."""

    def __init__(self, directory: Path):
        self.directory = directory

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self.directory / str(step)

    def candidates(self) -> list[int]:
        """Every directory whose name is a step, whatever it holds, in order."""
        try:
            paths = [path for path in self.directory.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(
                f"{self.directory} cannot be read ({one_line(error)}); choose another workdir"
            ) from error
        steps = [step_of(path.name) for path in paths]
        return sorted(step for step in steps if step is not None)

    def readable(self) -> list[Facts]:
        """The complete checkpoints, oldest first, by their manifests alone."""
        readable = []
        for step in self.candidates():
            try:
                readable.append(self.facts(step))
            except (manifest.Damaged, UserError):
                continue
        return readable

    def latest(self) -> int | None:
        """The newest step."""
        return max((facts.step for facts in self.readable()), default=None)

    def best(self) -> int | None:
        """The step with the largest validation accuracy, the earliest of equals."""
        scores = {f.step: f.val_accuracy for f in self.readable() if f.val_accuracy is not None}
        return max(scores, key=lambda step: (scores[step], -step), default=None)

    def facts(self, step: int) -> Facts:
        """The manifest of a checkpoint.

        Raises:
            Damaged: it is missing or not what was written.
            UserError: the directory was not written by this program, or by a newer version.
        """
        path = self.path(step)
        foreign = f"{path} is not a checkpoint of this program; move it away or choose another one"
        try:
            content = manifest.facts_of(path)
        except manifest.Damaged:
            if any(path.glob("*")) and not (path / STATE).exists():
                raise UserError(foreign) from None
            raise
        try:
            if content["format"] != FORMAT:
                raise UserError(foreign)
            if content["version"] > VERSION:
                raise UserError(
                    f"{path} was written by a newer version of this program (format "
                    f"{content['version']}, this one reads up to {VERSION}); update the program"
                )
            facts = Facts(**content)
            named = all(isinstance(form, str) for form in facts.tensors.values())
            if not named or not isinstance(facts.val_accuracy, float | None):
                raise TypeError("facts of other types")
        except (KeyError, TypeError, AttributeError) as error:
            raise manifest.Damaged(f"{manifest.MANIFEST} is not what was written") from error
        if facts.step != step:
            raise manifest.Damaged(f"it is the checkpoint of step {facts.step}")
        return facts

    def verified(self, step: int) -> Facts:
        """The facts of a checkpoint whose every file is as it was written; raises as `facts`."""
        facts = self.facts(step)
        manifest.verify(self.path(step))
        return facts

    def write(self, facts: Facts, write_state: Callable[[Path], None]) -> None:
        """Adds a checkpoint; until all of it is on the disk nothing shows under its name.

        Args:
            facts: its manifest.
            write_state: called with the path of a directory to make and fill.
        """
        if not self.directory.is_dir():
            self.directory.mkdir()
            sync(self.directory.parent)
        temporary = self.directory / f"{_SAVING}{facts.step}"
        if temporary.exists():
            self._set_aside_unfinished(temporary)
        temporary.mkdir()
        try:
            write_state(temporary / STATE)
            manifest.seal(temporary, dataclasses.asdict(facts))
            temporary.rename(self.path(facts.step))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync(self.directory)

    def add_accuracy(self, step: int, val_accuracy: float | None) -> None:
        """Records the validation accuracy of a checkpoint that had none."""
        facts = self.facts(step)
        if val_accuracy is not None and facts.val_accuracy is None:
            facts = dataclasses.replace(facts, val_accuracy=val_accuracy)
            manifest.amend(self.path(step), dataclasses.asdict(facts))

    def remove_all_but_latest_and_best(self) -> None:
        """Removes complete checkpoints only, never a damaged or unknown directory."""
        keep = {self.latest(), self.best()}
        for facts in self.readable():
            if facts.step not in keep:
                # Renamed first: a kill in between must not leave something that looks damaged.
                removing = self.directory / f"{_REMOVING}{facts.step}"
                if removing.exists():
                    shutil.rmtree(removing)
                self.path(facts.step).rename(removing)
                shutil.rmtree(removing)

    def set_aside_damaged(self, step: int) -> Path:
        """Renames a checkpoint to `damaged-STEP`; returns the new path."""
        return set_aside(self.path(step), f"damaged-{step}")

    def clear_remains(self) -> list[Path]:
        """Renames what a killed save left to `unfinished-STEP`, ends killed removals.

        Returns:
            The new paths of what was renamed.
        """
        for path in self.directory.glob(f"{_REMOVING}*"):
            shutil.rmtree(path)
        unfinished = sorted(self.directory.glob(f"{_SAVING}*"))
        return [self._set_aside_unfinished(path) for path in unfinished]

    def _set_aside_unfinished(self, path: Path) -> Path:
        return set_aside(path, f"unfinished-{path.name.removeprefix(_SAVING)}")


def step_of(name: str) -> int | None:
    """The step a directory or a user names; None where it is no step."""
    return int(name) if re.fullmatch(r"0|[1-9][0-9]{0,17}", name) else None


def one_line(error: BaseException) -> str:
    """The reason of an error; Orbax and TensorStore write paragraphs around that of the system."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    system = (os.strerror(number) for number in _FAILURES_OF_A_DISK)
    return next((reason for reason in system if reason in text), text[:200] or repr(error))
