"""A model in one file: safetensors, with all that the weights need to answer images.

Any reader of safetensors finds the parameters by the names that they have in checkpoints, such as
`blocks/attention/query_kernel`; those of `blocks` have the block as first axis. The metadata of the
file has under "eanet" a JSON object:

    format    1
    config    of the run, as in `config.json`
    model     class names, image shape, mean and deviation, as in `model.json`
    step      of the checkpoint

Where training data and initial weights lay is left out.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eanet import config as config_lib
from eanet import files, libraries
from eanet.checkpoints import storage
from eanet.errors import UserError
from eanet.inference.model import Model
from eanet.models.functional import SplitModel
from eanet.training import config_schema
from eanet.training.run import build_model
from eanet.version import __version__
from eanet.workdir import model_record

ENDING = ".safetensors"

_METADATA, _KEY, _FORMAT = "__metadata__", "eanet", 1
_HEADER_BYTES = 8  # the length of the header
_MOST_BYTES = 2**31  # no EANet comes near this
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jax.numpy.bfloat16),
}
_ADVICE = "export it anew"


def to_bytes(model: Model) -> bytes:
    """The content of a file, always the same for the same model.

    Raises:
      UserError: safetensors is not installed.
    """
    libraries.require("safetensors", "requirements-export.txt")
    from safetensors import numpy as safetensors

    text = json.dumps(description(model), ensure_ascii=False)
    tensors = {
        name: np.asarray(value, order="C") for name, value in storage.named(model.params).items()
    }
    return safetensors.save(tensors, {_KEY: text})


def description(model: Model) -> dict[str, Any]:
    """What the metadata says of a model; it names no place of this machine."""
    config = model.config.to_dict()
    config["dataset"] |= {"data_dir": "", "name": _without_place(config["dataset"]["name"])}
    config["init_from"] = Path(config["init_from"]).name
    record = model.record
    if data := record.data:
        data = dataclasses.replace(data, name=_without_place(data.name), place=None)
        record = dataclasses.replace(record, data=data)
    return {
        "format": _FORMAT,
        "config": config,
        "model": dataclasses.asdict(record),
        "step": model.step,
    }


def read(path: Path) -> Model:
    """The model of a file; nothing in it is executed.

    Raises:
      UserError: safetensors is not installed; or the file is missing, damaged, of another program
        or a newer version, or its tensors are not those of the model that it describes.
    """
    content = _content(path)
    tensors = _tensors(path, content)
    described = _metadata(path, content)
    record = model_record.from_values(described["model"], path, _ADVICE)
    config = config_lib.from_values(described["config"], path)
    try:
        config_schema.check(config)
        network = build_model(config, len(record.class_names), record.image_shape)
    except UserError as error:
        written = f"written by version {record.version}, this is {__version__}"
        raise UserError(f"{path} ({written}): {error}") from None
    return Model(config, record, described["step"], _params(path, tensors, network), network)


def _without_place(name: str) -> str:
    """The name of a data set; of `folder:PATH` the last part alone."""
    kind, colon, place = name.partition(":")
    return f"{kind}{colon}{Path(place).name}"


def _content(path: Path) -> bytes:
    try:
        if os.path.getsize(path) > _MOST_BYTES:
            raise UserError(f"{path} has more than {_MOST_BYTES >> 30} GiB and is no EANet")
        return files.read_bytes(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _tensors(path: Path, content: bytes) -> dict[str, np.ndarray]:
    libraries.require("safetensors", "requirements-export.txt")
    import safetensors

    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged, truncated or no safetensors: {error}") from None
    for name, tensor in found:
        if tensor["dtype"] not in _DTYPES:
            raise UserError(f"{path}: {name} is of {tensor['dtype']}, and no parameter of an EANet")
    return {
        name: np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in found
    }


def _metadata(path: Path, content: bytes) -> dict[str, Any]:
    """What the header says of the model; `_tensors` has found the header to be sound."""
    end = _HEADER_BYTES + int.from_bytes(content[:_HEADER_BYTES], "little")
    text = json.loads(content[_HEADER_BYTES:end]).get(_METADATA, {}).get(_KEY)
    if text is None:
        raise UserError(f"{path} holds no model of this program, only tensors")
    try:
        described = json.loads(text)
        if described["format"] != _FORMAT:
            raise UserError(f"{path} is of format {described['format']}, which is newer than this")
        step, model = described["step"], described["model"]
        if not isinstance(model, dict) or type(step) is not int or not 0 <= step < 2**63:
            raise ValueError("model is no object, or step no number of steps")
        return {"config": described["config"], "model": model, "step": step}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} does not describe a model ({error}); {_ADVICE}") from None


def _params(path: Path, tensors: dict[str, np.ndarray], network: SplitModel) -> Any:
    """The tree of parameters, if the tensors are just those of the network."""
    like = jax.eval_shape(network.init, np.uint32(0))
    wanted, found = storage.forms(like), storage.forms(tensors)
    for name, form in wanted.items():
        if name not in found:
            raise UserError(f"{path} has no tensor {name}, {form}; {_ADVICE}")
        if found[name] != form:
            raise UserError(f"{path}: {name} is {found[name]}, and {form} in the model described")
    if unknown := found.keys() - wanted.keys():
        raise UserError(f"{path}: {min(unknown)} is no parameter of the model that it describes")
    return jax.tree.unflatten(jax.tree.structure(like), [tensors[name] for name in wanted])
