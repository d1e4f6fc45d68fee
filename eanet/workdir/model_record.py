"""`model.json` of a run: what prediction needs besides the weights."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eanet import files
from eanet.errors import UserError
from eanet.version import __version__

if TYPE_CHECKING:
    from eanet.data.load import Dataset

NAME = "model.json"

# What happens to images of another size than the model's.
RESIZES = ("refuse",)


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """What a model takes and answers.

    Attributes:
      class_names: in the order of the logits.
      image_shape: height, width and channels.
      mean: per channel of the training images, on the scale 0..255.
      std: likewise, above 0.
      resize: one of `RESIZES`.
      version: of the program that wrote it.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "refuse"
    version: str = __version__

    def __post_init__(self) -> None:
        """Raises ValueError, with the reason in a few words, for what cannot be."""
        _require(_is_list(self.class_names, str) and self.class_names, "class_names")
        _require(len(set(self.class_names)) == len(self.class_names), "class_names")
        _require(_is_list(self.image_shape, int) and len(self.image_shape) == 3, "image_shape")
        _require(all(0 < size < 2**16 for size in self.image_shape), "image_shape")
        for name in ("mean", "std"):
            values = getattr(self, name)
            _require(_is_list(values, float) and len(values) == self.image_shape[2], name)
            _require(all(math.isfinite(value) for value in values), name)
        _require(min(self.std) > 0, "std")
        _require(self.resize in RESIZES, "resize")
        _require(isinstance(self.version, str), "version")

    @classmethod
    def of(cls, dataset: "Dataset") -> "ModelRecord":
        """Of a model that is trained on this data set."""
        mean, std = (tuple(map(float, values)) for values in (dataset.mean, dataset.std))
        return cls(dataset.class_names, dataset.image_shape, mean, std)

    @property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation, each `float32[C]`."""
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)


def write(workdir: Path, record: ModelRecord) -> None:
    """Writes `model.json`, with a digest of its content.

    Raises:
      UserError: it cannot be written.
    """
    content = dataclasses.asdict(record)
    files.write_json(workdir / NAME, {**content, "sha256": files.digest(content)})


def read(workdir: Path) -> ModelRecord | None:
    """Reads `model.json`; None where a run of an older version has none.

    Raises:
      UserError: it is damaged, or of a newer version.
    """
    path = workdir / NAME
    advice = "restore it, or remove it to take what it says from the data set"
    content = files.read_record(path, advice)
    if content is None:
        return None
    if content.pop("sha256", None) != files.digest(content):
        raise UserError(f"{path} is damaged, it fails its checksum; {advice}")
    try:
        return ModelRecord(**{key: _tuple(value) for key, value in content.items()})
    except (TypeError, ValueError) as error:
        written = f"it was written by version {content.get('version')}, this is {__version__}"
        raise UserError(f"{path} cannot be used: {error}; {written}; {advice}") from None


def _require(condition: Any, name: str) -> None:
    if not condition:
        raise ValueError(f"{name} is none")


def _is_list(values: Any, kind: type) -> bool:
    return isinstance(values, tuple) and all(type(value) is kind for value in values)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
