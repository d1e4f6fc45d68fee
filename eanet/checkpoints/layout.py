"""The directory of a run's checkpoints: names, metadata, damage and what is kept; no arrays.

A checkpoint is the directory `STEP`: `orbax/` with the state, and `manifest.json` with `Metadata`
and the digest of every file. It is written under another name, `saving-STEP`, and renamed when all
of it is on the disk.
"""

import dataclasses
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from eanet.checkpoints import manifest
from eanet.checkpoints.manifest import Damaged
from eanet.errors import UserError
from eanet.files import set_aside, sync

STATE = "orbax"
FORMAT = "eanet checkpoint"
VERSION = 2  # 1 has neither config nor history

_SAVING = "saving-"
_REMOVING = "removing-"
# What a killed removal or save left, the latter also under the name that older versions gave it.
_REMAINS = re.compile(rf"{_REMOVING}.*|{_SAVING}\d+|unfinished-\d+(-\d+)?")
_SYSTEM_FAILURES = "ENOSPC EDQUOT EFBIG EROFS EACCES EIO EMFILE ENFILE"


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a manifest says about its checkpoint."""

    step: int
    val_accuracy: float | None  # a fraction, or None where it was not validated
    tensors: Mapping[str, str]  # dtype and shape, such as "params/head/bias": "float32[100]"
    config: Mapping[str, str] = dataclasses.field(default_factory=dict)  # what shapes the tensors
    history: str = ""  # what had been logged by then
    format: str = FORMAT
    version: int = VERSION

    def __post_init__(self) -> None:
        texts = [*self.tensors.values(), *self.config.values(), self.history]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("tensors, config and history are texts")
        if not isinstance(self.val_accuracy, float | None):
            raise TypeError("an accuracy is a number")


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
    """Everything about checkpoints that can be done without looking into their state."""

    directory: Path

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

    def survey(self) -> tuple[dict[int, Metadata], dict[int, Damaged | UserError]]:
        """By step, oldest first: what the manifests say, and why others say nothing."""
        readable: dict[int, Metadata] = {}
        unreadable: dict[int, Damaged | UserError] = {}
        for step in self.candidates():
            try:
                readable[step] = self.metadata(step)
            except (Damaged, UserError) as reason:
                if self.path(step).exists():  # else training has just removed it
                    unreadable[step] = reason
        return readable, unreadable

    def metadata(self, step: int) -> Metadata:
        """What the manifest of a checkpoint says.

        Raises:
          Damaged: it is missing or not what was written.
          UserError: it cannot be read, or the directory was not written by this program, or by a
            newer version.
        """
        path = self.path(step)
        foreign = f"{path} is not a checkpoint of this program; move it away or choose another one"
        try:
            content = manifest.metadata_of(path)
        except Damaged:
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
            metadata = Metadata(**content)
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{manifest.MANIFEST} is not what was written") from error
        if metadata.step != step:
            raise Damaged(f"it is the checkpoint of step {metadata.step}")
        return metadata

    def verified(self, step: int) -> Metadata:
        """As `metadata`, of a checkpoint whose every file is as it was written."""
        metadata = self.metadata(step)
        manifest.verify(self.path(step))
        return metadata

    def write(self, metadata: Metadata, write_state: Callable[[Path], None]) -> None:
        """Adds a checkpoint; until all of it is on the disk nothing shows under its name.

        `write_state` is called with the path of a directory to make and fill.
        """
        if not self.directory.is_dir():
            self.directory.mkdir()
            sync(self.directory.parent)
        temporary = self.directory / f"{_SAVING}{metadata.step}"
        _remove(temporary)
        temporary.mkdir()
        try:
            write_state(temporary / STATE)
            manifest.seal(temporary, dataclasses.asdict(metadata))
            temporary.rename(self.path(metadata.step))
        except BaseException:
            _remove(temporary)
            raise
        sync(self.directory)

    def add_accuracy(self, validated: Metadata) -> None:
        """Replaces the metadata of a checkpoint that had not been validated by those with it."""
        before = self.metadata(validated.step)
        if validated.val_accuracy is not None and before.val_accuracy is None:
            manifest.amend(self.path(validated.step), dataclasses.asdict(validated))

    def remove_all_but_latest_and_best(self) -> None:
        """Removes complete checkpoints only, never a damaged or unknown directory."""
        readable, _ = self.survey()
        for step in readable.keys() - {max(readable, default=None), best_of(readable.values())}:
            # Renamed first, so that no half of it is ever found under its name.
            removing = self.directory / f"{_REMOVING}{step}"
            if removing.exists():
                shutil.rmtree(removing)
            self.path(step).rename(removing)
            shutil.rmtree(removing)

    def set_aside_damaged(self, step: int) -> Path:
        """Renames a checkpoint to `damaged-STEP`; returns the new path."""
        return set_aside(self.path(step), f"damaged-{step}")

    def clear_remains(self) -> list[str]:
        """Removes what killed saves and removals left; returns the names of the former."""
        remains = [p for p in sorted(self.directory.glob("*")) if _REMAINS.fullmatch(p.name)]
        for path in remains:
            shutil.rmtree(path)
        return [path.name for path in remains if not path.name.startswith(_REMOVING)]


def _remove(directory: Path) -> None:
    """What is left of a save that failed, whose other writes may still be on their way."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.05)


def best_of(checkpoints: Iterable[Metadata]) -> int | None:
    """The step with the largest validation accuracy, the earliest of equals."""
    scores = {m.step: m.val_accuracy for m in checkpoints if m.val_accuracy is not None}
    return max(scores, key=lambda step: (scores[step], -step), default=None)


def step_of(name: str) -> int | None:
    """The step a directory or a user names; None where it is no step."""
    return int(name) if re.fullmatch(r"0|[1-9][0-9]{0,17}", name) else None


def one_line(error: BaseException) -> str:
    """The reason of an error; Orbax and TensorStore write paragraphs around that of the system."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    system = (os.strerror(getattr(errno, name)) for name in _SYSTEM_FAILURES.split())
    return next((reason for reason in system if reason in text), text[:200] or repr(error))
