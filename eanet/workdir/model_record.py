"""`model.json` of a run: what its model takes and answers, and what it was trained on."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eanet import files
from eanet.data.resize import DEFAULT, RESIZES
from eanet.errors import UserError
from eanet.version import __version__

if TYPE_CHECKING:
    from eanet.data.load import Dataset

NAME = "model.json"
SPLITS = ("train", "val", "test")

_FEW = 5  # names in a message
_ADVICE = "restore it, or remove it to take what it says from the data set"


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """One split of a data set; see `eanet.data.base.content_fingerprint`."""

    examples: int  # how many
    fingerprint: str  # of the part of the source that it is taken from

    def __post_init__(self) -> None:
        _require(type(self.examples) is int and self.examples >= 0, "examples")
        _require(isinstance(self.fingerprint, str), "fingerprint")


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """A data set."""

    name: str  # of the config
    place: str | None  # absolute path that it was read from; None where it is everywhere the same
    splits: Mapping[str, SplitRecord]  # by their names, `SPLITS`
    skipped: int = 0  # files that could not be read and were left out
    tested_on: str = "test"  # what the source calls its split that is `test`

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str), "name")
        _require(isinstance(self.place, str | None) and "\0" not in (self.place or ""), "place")
        _require(set(self.splits) == set(SPLITS), "splits")
        _require(type(self.skipped) is int and self.skipped >= 0, "skipped")
        _require(isinstance(self.tested_on, str), "tested_on")

    @property
    def holds_out(self) -> bool:
        """Whether validation is a part of the source's own training split."""
        return self.splits["val"].fingerprint == self.splits["train"].fingerprint


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """What a model takes and answers."""

    class_names: tuple[str, ...]  # in the order of the logits
    image_shape: tuple[int, int, int]  # height, width and channels
    mean: tuple[float, ...]  # per channel of the training images, on the scale 0..255
    std: tuple[float, ...]  # likewise, above 0
    data: DataRecord | None = None  # what it was trained on; None for weights that came without
    # Of images of another size than the model's, see `eanet.data.resize`. Records of before the key
    # `dataset.resize` say "refuse".
    resize: str = "refuse"
    bits: int | None = None  # of 16-bit training images, see `eanet.data.images`; None without such
    version: str = __version__  # of the program that wrote it

    def __post_init__(self) -> None:
        _require(_are(str, self.class_names) and self.class_names, "class_names")
        _require(len(set(self.class_names)) == len(self.class_names), "class_names")
        _require(_are(int, self.image_shape) and len(self.image_shape) == 3, "image_shape")
        _require(all(0 < size < 2**16 for size in self.image_shape), "image_shape")
        for name in ("mean", "std"):
            values = getattr(self, name)
            _require(_are(float, values) and len(values) == self.image_shape[2], name)
            _require(all(map(math.isfinite, values)), name)
        _require(min(self.std) > 0, "std")
        _require(self.resize in ("refuse", *RESIZES), "resize")
        _require(self.bits is None or (_are(int, (self.bits,)) and 8 <= self.bits <= 16), "bits")
        _require(isinstance(self.version, str), "version")

    @property
    def resize_policy(self) -> str:
        """How images of another size are resized where nothing else is asked for."""
        return DEFAULT if self.resize == "refuse" else self.resize

    @property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation, each `float32[C]`."""
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)

    @classmethod
    def of(cls, dataset: "Dataset") -> "ModelRecord":
        """Of a model that is trained on this data set."""
        mean, std = (tuple(map(float, values)) for values in (dataset.mean, dataset.std))
        data = DataRecord(
            dataset.name, dataset.place, _splits(dataset), dataset.skipped, dataset.tested_on
        )
        names, shape = dataset.class_names, dataset.image_shape
        return cls(names, shape, mean, std, data, dataset.resize, dataset.bits)

    def refuse_other(self, dataset: "Dataset") -> None:
        """Raises `UserError` for a data set that is not what the run was trained on."""
        if self.data is None:
            return
        names, names_now = set(self.class_names), set(dataset.class_names)
        changes = []
        if missing := names - names_now:
            changes.append(f"{_some(missing)} missing")
        if new := names_now - names:
            changes.append(f"{_some(new)} new")
        if not changes and dataset.class_names != self.class_names:
            changes.append("the classes are in another order")
        now = _splits(dataset)
        for split, then in self.data.splits.items():
            if change := difference(then, now[split]):
                changes.append(f"{split} has {change}")
        if changes:
            raise UserError(
                f"the data is not what the run was trained on: {'; '.join(changes)}. Restore "
                f"{self.data.place or self.data.name}, or train in another --workdir"
            )


def _splits(dataset: "Dataset") -> dict[str, SplitRecord]:
    return {
        split: SplitRecord(len(getattr(dataset, split)), dataset.fingerprints[split])
        for split in SPLITS
    }


def difference(then: SplitRecord, now: SplitRecord) -> str:
    """How a split differs from what is recorded, in a few words; empty where it does not."""
    if now.examples != then.examples:
        return f"{now.examples:,} images instead of {then.examples:,}"
    if now.fingerprint != then.fingerprint:
        return "other images or labels, or another order"
    return ""


def write(workdir: Path, record: ModelRecord) -> None:
    """Writes `model.json`, with a digest of its content; raises as `eanet.files.write` does."""
    files.write_record(workdir / NAME, dataclasses.asdict(record))


def read(workdir: Path) -> ModelRecord | None:
    """Reads `model.json`; None where a run of an older version has none.

    Raises:
      UserError: it is damaged, or of a newer version.
    """
    path = workdir / NAME
    content = files.read_record(path, _ADVICE)
    return None if content is None else from_values(content, path, _ADVICE)


def from_values(content: Mapping[str, Any], source: str | Path, advice: str) -> ModelRecord:
    """What the JSON object of a record stands for; raises as `read`, with the advice."""
    try:
        return _parsed(**content)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        written = f"it was written by version {content.get('version')}, this is {__version__}"
        raise UserError(f"{source} cannot be used: {error}; {written}; {advice}") from None


def _parsed(data: Any, **content: Any) -> ModelRecord:
    if data is not None:
        splits = {name: SplitRecord(**split) for name, split in data["splits"].items()}
        data = DataRecord(**{**data, "splits": splits})
    for key, item in content.items():
        content[key] = tuple(item) if isinstance(item, list) else item
    return ModelRecord(data=data, **content)


def _some(names: set[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:_FEW])) + (", …" if len(names) > _FEW else "")
    return f"class {shown} is" if len(names) == 1 else f"classes {shown} are"


def _require(condition: Any, name: str) -> None:
    if not condition:
        raise ValueError(f"what {name} says cannot be")


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, tuple) and all(type(value) is kind for value in values)
