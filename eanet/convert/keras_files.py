"""Reads and writes weight files of Keras without Keras, and runs nothing that is in them.

Forms: `.weights.h5` and `.keras` (Keras 3), `.h5` (Keras 2), and the SavedModel or checkpoint of
TensorFlow, for which alone TensorFlow is needed.
"""

import io
import itertools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from eanet import files
from eanet.convert import keras_config
from eanet.convert.keras_weights import KerasWeights, slots
from eanet.errors import UserError

# No EANet comes near this; a damaged or hostile file may claim any size.
_MAX_BYTES = 2**31
_MAX_DEPTH = 12

_NORMALIZATION = re.compile(r"(?:^|/)normalization/vars/([01])$")
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# In a checkpoint the variables of one layer have names only; this is their order in the model.
_VARIABLES = (
    *("mean", "variance", "proj", "pos_embed"),
    *("_query_dense", "_key_dense", "_value_dense", "_output_dense"),
    *("kernel", "bias", "gamma", "beta", "embeddings"),
)


def read(source: str | Path) -> KerasWeights:
    """All weights of a file in the order of the model.

    Raises:
      UserError: the file is missing, damaged, of another form, or holds what is not of the Keras
        example's model; the message names the tensor.
    """
    path = Path(source)
    if path.is_dir() or (not path.exists() and path.with_name(path.name + ".index").is_file()):
        return _read_tensorflow(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path} has more than {_MAX_BYTES >> 30} GiB and is no EANet")
        content = files.read_bytes(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if content.startswith(b"PK"):
        return _read_archive(path, content)
    return _read_h5(str(path), content, b"")


def normalizing(values: Mapping[str, np.ndarray], mean: Any, std: Any) -> bytes:
    """A `.weights.h5` file of Keras 3, with a Normalization layer as the example has it.

    Values are named inside `layers/`; mean and deviation are per channel, on the scale 0..255.
    """
    layer = "sequential/layers/normalization/vars"
    statistics = {
        f"{layer}/0": np.asarray(mean, np.float32),
        f"{layer}/1": np.square(np.asarray(std, np.float64)).astype(np.float32),
        f"{layer}/2": np.asarray(0, np.int32),
    }
    return weights_h5({**statistics, **values})


def weights_h5(values: Mapping[str, np.ndarray]) -> bytes:
    """The content of a `.weights.h5` file with these variables, named inside `layers/`."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, value in values.items():
            file[f"layers/{name}"] = value
    return content.getvalue()


def _read_archive(path: Path, content: bytes) -> KerasWeights:
    """A `.keras` file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if "model.weights.h5" not in names:
                raise UserError(f"{path} holds no model.weights.h5, so it is no .keras file")
            weights = _member(path, archive, "model.weights.h5")
            config = _member(path, archive, "config.json") if "config.json" in names else b"{}"
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(f"{path} is damaged or truncated: {error}") from None
    return _read_h5(f"{path}:model.weights.h5", weights, config)


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _MAX_BYTES:
        raise UserError(f"{path}: {name} would unpack to more than {_MAX_BYTES >> 30} GiB")
    with archive.open(name) as file:
        return file.read(_MAX_BYTES)


def _read_h5(source: str, content: bytes, config: bytes | str) -> KerasWeights:
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            root = _node(source, file, "model_weights") if "model_weights" in file else file
            legacy = "layer_names" in root.attrs
            config = config or file.attrs.get("model_config", b"")
            tensors = _legacy_tensors if legacy else _keras3_tensors
            named = {
                name: _value(source, name, dataset, len(content))
                for name, dataset in tensors(source, root)
            }
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{source} is damaged, truncated or no HDF5 file: {error}") from None
    if not legacy:
        named = _keras3(source, named)
    return _in_order(source, named, keras_config.layers(config))


def _node(source: str, root: Any, path: str) -> Any:
    """What stands at a path inside the file; a link, which may lead out of it, is refused."""
    node = root
    for name in path.split("/"):
        if not isinstance(node.get(name, getlink=True), h5py.HardLink):
            raise UserError(f"{source}: {path} is missing or a link, which Keras does not write")
        node = node[name]
    return node


def _keras3_tensors(source: str, root: Any) -> Iterator[tuple[str, Any]]:
    """The variables of all layers of a Keras 3 file; not those of optimizer and metrics."""
    pending = [name for name in root if name.endswith(("layers", "_layer_checkpoint_dependencies"))]
    if not pending:
        content = ", ".join(list(root)[:3]) or "nothing"
        raise UserError(f"{source} has no layers, so these are no Keras weights; it has {content}")
    while pending:
        path = pending.pop()
        if path.count("/") > _MAX_DEPTH:
            raise UserError(f"{source}: {path} is nested deeper than Keras does")
        node = _node(source, root, path)
        if isinstance(node, h5py.Group):
            pending += [f"{path}/{child}" for child in node]
        elif "/vars/" in path:
            yield path, node


def _legacy_tensors(source: str, root: Any) -> Iterator[tuple[str, Any]]:
    """Keras 2 lists the names of layers and variables in their order."""
    for layer in _texts(root.attrs["layer_names"]):
        for name in _texts(_node(source, root, layer).attrs["weight_names"]):
            yield f"{layer}/{name}", _node(source, root, f"{layer}/{name}")


def _value(source: str, name: str, dataset: Any, file_size: int) -> np.ndarray:
    if dataset.external or dataset.is_virtual:
        raise UserError(f"{source}: {name} stands in another file, which Keras does not write")
    if dataset.size * dataset.dtype.itemsize > file_size:
        raise UserError(
            f"{source}: {name} claims the shape {list(dataset.shape)}, more than the file holds"
        )
    try:
        return np.asarray(dataset[()])
    except (OSError, RuntimeError) as error:
        raise UserError(f"{source}: {name} cannot be read: {error}") from None


def _texts(names: Any) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _keras3(source: str, named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Brings the variables, whose names count the layers of each class, into the model's order."""
    plain = {re.sub(r"^[^/]*/", "", name).replace("/_", "/"): name for name in named}
    matches = {key: _NORMALIZATION.search(key) for key in plain}
    statistics = {match[1]: plain[key] for key, match in matches.items() if match}
    rest = [key for key in plain if not matches[key] and _is_weight(named[plain[key]])]
    attention = "self" if any("multi_head_attention" in key for key in rest) else "external"
    norms = {key.split("/")[0] for key in rest if key.startswith("layer_normalization")}
    depth = max(1, (len(norms) + 1) // 2)
    expected = slots(depth, attention)
    for slot in expected:
        if slot.keras not in plain:
            raise UserError(f"{source}: layers/{slot.keras} is missing, which is {slot.name}")
    if others := sorted({*rest} - {slot.keras for slot in expected}):
        name = plain[others[0]]
        raise UserError(
            f"{source}: {name}, of shape {list(named[name].shape)}, is no part of the "
            f"Keras example's model with {depth} blocks of {attention} attention"
        )
    names = [statistics[i] for i in sorted(statistics)] + [plain[slot.keras] for slot in expected]
    return {name: named[name] for name in names}


def _is_weight(value: np.ndarray) -> bool:
    """Neither the state of a random generator nor a counter."""
    return value.ndim > 0 and not np.issubdtype(value.dtype, np.integer)


def _in_order(
    source: str, named: dict[str, np.ndarray], layers: keras_config.Layers
) -> KerasWeights:
    """Splits off mean and variance of a Normalization layer, and checks all values."""
    tensors = {name: value for name, value in named.items() if _is_weight(value)}
    for name, value in tensors.items():
        if not np.issubdtype(value.dtype, np.floating):
            raise UserError(f"{source}: {name} has the type {value.dtype}, no float")
        if not np.isfinite(value).all():
            raise UserError(f"{source}: {name} has values that are not finite")
    if not tensors:
        raise UserError(f"{source} holds no weights")
    # The model itself begins with a matrix, the projection of the patches.
    first = list(itertools.takewhile(lambda name: tensors[name].ndim == 1, tensors))
    adapted = None
    if len(first) == 2 and tensors[first[0]].shape == tensors[first[1]].shape:
        adapted = tensors.pop(first[0]), tensors.pop(first[1])
    statistics = keras_config.statistics(source, layers, adapted)
    return KerasWeights(source, tensors, statistics, keras_config.image_shape(layers))


def _read_tensorflow(path: Path) -> KerasWeights:
    """Reads the variables of a checkpoint; the graph of a SavedModel is not even loaded."""
    prefix = _checkpoint_prefix(path)
    try:
        import tensorflow as tf
        from tensorflow.core.protobuf import trackable_object_graph_pb2
    except ImportError:
        raise UserError(
            f"{path} is in TensorFlow's form, which only TensorFlow reads: "
            "pip install tensorflow-cpu in a separate environment"
        ) from None
    name = "the index"
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        if sum(int(np.prod(shape, dtype=object)) for shape in shapes.values()) * 4 > _MAX_BYTES:
            raise UserError(f"{path} holds more than {_MAX_BYTES >> 30} GiB and is no EANet")
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        if _OBJECT_GRAPH in shapes:
            name = _OBJECT_GRAPH
            graph.ParseFromString(reader.get_tensor(name))
        named = {}
        for name in _saved_variables(graph) or _layer_variables(shapes):
            named[name.removesuffix(_VALUE)] = np.asarray(reader.get_tensor(name))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {name} is damaged or truncated: {error}") from None
    return _in_order(str(path), named, [])


def _checkpoint_prefix(path: Path) -> Path:
    """The common beginning of the names of a checkpoint's files."""
    if not path.is_dir():
        return path
    if (path / "variables").is_dir():
        path = path / "variables"
    indices = sorted(path.glob("*.index"))
    if len(indices) == 1:
        return indices[0].with_suffix("")
    if not indices:
        raise UserError(f"{path} holds no TensorFlow checkpoint: there is no file *.index")
    names = ", ".join(index.stem for index in indices[:5])
    raise UserError(f"{path} holds several checkpoints; give one of them as {path}/NAME: {names}")


def _saved_variables(graph: Any) -> list[str]:
    """The keys of the list `variables` of a SavedModel, which is in the order of the model."""
    roots = graph.nodes[:1]
    children = {child.local_name: child.node_id for node in roots for child in node.children}
    if "variables" not in children:
        return []
    items = graph.nodes[children["variables"]].children
    ordered = sorted(items, key=lambda item: int(item.local_name))
    return [graph.nodes[item.node_id].attributes[0].checkpoint_key for item in ordered]


def _layer_variables(shapes: dict) -> list[str]:
    """The keys of what `save_weights` writes, sorted by layer and by variable."""

    def order(name: str) -> Iterator[int]:
        for part in name.removesuffix(_VALUE).split("/"):
            if match := re.fullmatch(r"layer_with_weights-(\d{1,6})", part):
                yield int(match[1])
            elif part in _VARIABLES:
                yield _VARIABLES.index(part)
            else:
                raise UserError(
                    f"{name.removesuffix(_VALUE)}, of shape {shapes[name]}, is no part of the "
                    "Keras example's model"
                )

    others = tuple(f"{name}{_VALUE}" for name in ("/count", "_state_var"))
    names = [name for name in shapes if name.startswith("layer_with_weights-")]
    names = [name for name in names if name.endswith(_VALUE) and not name.endswith(others)]
    return sorted(names, key=lambda name: list(order(name)))
