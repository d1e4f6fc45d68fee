"""Where a model is, as a user names it: a run, a file that was exported of one, or the hub."""

import os
from pathlib import Path
from typing import NamedTuple

from eanet import files, hub
from eanet.errors import UserError
from eanet.inference import weights

ABOUT = "directory of a run, a file *.safetensors, or hf:USER/NAME"  # what `Place.of` takes


class Place(NamedTuple):
    """A place that `eanet.inference.load.load` takes a model from."""

    text: str  # as it was named
    path: Path | None  # None at the hub

    @classmethod
    def of(cls, place: str | os.PathLike[str]) -> "Place":
        """Raises `UserError` for what cannot be one; whether anything is there is not asked yet."""
        text = os.fspath(place)
        if hub.is_address(text):
            hub.parse(text)
            return cls(text, None)
        return cls(text, files.local_path(text))

    def __str__(self) -> str:
        return str(self.path or self.text)

    @property
    def is_model_alone(self) -> bool:
        """Whether nothing but one checkpoint is there: no data, no results, nowhere to write."""
        return self.path is None or self.path.suffix == weights.ENDING

    @property
    def name(self) -> str:
        """What the model is called in titles and records."""
        if self.path is None:
            return hub.parse(self.text).repository.rpartition("/")[2]
        return self.path.resolve().name

    def out(self, asked: str | None, default: str, flag: str = "--out") -> Path:
        """Where to write what is made of the model: what was asked for, or beside it.

        Raises `UserError` where there is no beside, as at the hub.
        """
        if asked is not None:
            return files.local_path(asked)
        if self.path is None:
            raise UserError(f"{self} is at the hub: say by {flag}= where to write here")
        if self.is_model_alone:
            return self.path.with_name(Path(default).name)
        return self.path / default
