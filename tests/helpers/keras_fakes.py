"""Weight files as Keras writes them, written without Keras and without the code under test."""

import io
import json
import zipfile

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

SMALL = {
    "num_classes": 10,
    "image_shape": (8, 8, 3),
    "patch_size": 2,
    "embed_dim": 12,
    "depth": 2,
    "num_heads": 3,
    "head_dim": 4,
    "memory_size": 5,
    "mlp_dim": 20,
}


def keras3_values(attention: str, **changes) -> dict[str, np.ndarray]:
    """Names inside `layers/` of a `.weights.h5` file, in the order of the model, with values."""
    o = SMALL | changes
    height, width, channels = o["image_shape"]
    p, d, heads, h = o["patch_size"], o["embed_dim"], o["num_heads"], o["head_dim"]
    rng = np.random.default_rng(0)
    values, counts = {}, {}

    def add(name, *shapes):
        for index, shape in enumerate(shapes):
            values[f"{name}/vars/{index}"] = rng.normal(size=shape).astype(np.float32)

    def count(name):
        number = counts[name] = counts.get(name, -1) + 1
        return f"{name}_{number}" if number else name

    def dense(inputs, outputs):
        add(count("dense"), (inputs, outputs), (outputs,))

    statistics = "sequential/layers/normalization"
    add(statistics, (channels,), (channels,))
    values[f"{statistics}/vars/1"] **= 2
    values[f"{statistics}/vars/2"] = np.asarray(0, np.int32)
    add("patch_embedding/proj", (p * p * channels, d), (d,))
    add("patch_embedding/pos_embed", (height * width // p**2, d))
    for _ in range(o["depth"]):
        add(count("layer_normalization"), (d,), (d,))
        if attention == "external":
            dense(d, heads * h)
            dense(h, o["memory_size"])
            dense(o["memory_size"], h)
            dense(heads * h, d)
        else:
            name = count("multi_head_attention")
            for part in ("query", "key", "value"):
                add(f"{name}/{part}_dense", (d, heads, h), (heads, h))
            add(f"{name}/output_dense", (heads, h, d), (d,))
        add(count("layer_normalization"), (d,), (d,))
        dense(d, o["mlp_dim"])
        dense(o["mlp_dim"], d)
    dense(d, o["num_classes"])
    return values


def write_keras_archive(path, values):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, value in values.items():
            file[f"layers/{name}"] = value
        file["optimizer/vars/0"] = np.zeros((3, 3), np.float32)
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    shape = [None, *SMALL["image_shape"]]
    layer = {"class_name": "InputLayer", "config": {"batch_shape": shape}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"config": {"layers": [layer]}}))
        archive.writestr("model.weights.h5", content.getvalue())
    return path


def _layers(values):
    """Pairs of the name of a layer and what it holds, by name inside it."""
    layers = {}
    for name, value in values.items():
        layer, rest = name.split("/", 1)
        layers.setdefault(layer, {})[rest] = value
    return layers


def legacy_h5(path, values, attention, first_dense=1):
    """Keras 2: names of layers in an attribute, counted through the whole session."""
    dense = first_dense
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        names = [b"input_1"]
        root.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for layer, held in _layers(values).items():
            if layer.startswith("dense"):
                layer, dense = f"dense_{dense}", dense + 1
            group = root.create_group(layer)
            variables = [f"{layer}/{rest.replace('/', '_')}:0" for rest in held]
            for variable, value in zip(variables, held.values(), strict=True):
                group[variable] = value
            group.attrs["weight_names"] = [variable.encode() for variable in variables]
            names.append(layer.encode())
        root.attrs["layer_names"] = names
    return path


def tensorflow_trackables(tf, values, attention):
    """Trackables with Keras 2's names: `layer_with_weights-N`, and the flat list `variables`."""
    layers, ordered = {}, []

    def variable(value):
        ordered.append(tf.Variable(value))
        return ordered[-1]

    def node(**children):
        return tf.train.Checkpoint(**children)

    for index, (layer, held) in enumerate(_layers(values).items()):
        held = list(held.values())
        if layer == "sequential":
            names = ("mean", "variance", "count")
            inner = node(**dict(zip(names, map(variable, held), strict=True)))
            made = node(**{"layer_with_weights-0": inner})
        elif layer == "patch_embedding":
            proj = node(kernel=variable(held[0]), bias=variable(held[1]))
            made = node(proj=proj, pos_embed=node(embeddings=variable(held[2])))
        elif layer.startswith("multi"):
            parts = ("_query_dense", "_key_dense", "_value_dense", "_output_dense")
            made = node(
                **{
                    part: node(kernel=variable(held[2 * i]), bias=variable(held[2 * i + 1]))
                    for i, part in enumerate(parts)
                }
            )
        else:
            names = ("gamma", "beta") if layer.startswith("layer") else ("kernel", "bias")
            made = node(**dict(zip(names, map(variable, held), strict=True)))
        layers[f"layer_with_weights-{index}"] = made
    return layers, ordered
