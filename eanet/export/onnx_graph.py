"""The network as a graph of ONNX, part by part: tokens are rows, `[B, N, d]`.

Written with `onnx` itself: the network is a dozen kinds of operations, and so every parameter keeps
its name, a viewer shows the blocks, and attention stands there as in `eanet.models.attention`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from eanet.errors import UserError
from eanet.models.attention import EPSILON, ExternalAttention
from eanet.models.attention_fast import FastExternalAttention
from eanet.models.eanet import Block, EANet
from eanet.models.layers import LayerNorm, Linear, Mlp
from eanet.models.local_mixing import LocalMixing
from eanet.models.pooling import Mean, SequencePooling
from eanet.models.residual_scale import ResidualScale
from eanet.models.self_attention import SelfAttention
from eanet.models.stems import Convolutions, Patches

OPSET = 20  # the first with GELU

_SAME = 0  # in a new shape: as many as there are
_AROUND = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}  # a 3×3 convolution with zeros outside


@dataclass(frozen=True)
class Graph:
    """Nodes and constants that become more; a value is known by its name."""

    scope: str = ""  # with which names begin
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def at(self, part: Any) -> "Graph":
        """The same graph, where a part of the network is written."""
        return Graph(f"{self.scope}{part}/", self.nodes, self.constants)

    def constant(self, name: str, value: Any) -> str:
        """A parameter, in float32."""
        return self._store(f"{self.scope}{name}", np.asarray(value, np.float32))

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """The result of an operation."""
        result = f"{self.scope}{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [result], result, **attributes))
        return result

    def rename(self, name: str, new: str) -> None:
        """Gives another name to the last result that was added."""
        assert self.nodes[-1].output[0] == name
        self.nodes[-1].output[0] = new

    def reshape(self, x: str, *shape: int) -> str:
        """The same values in another shape, where `_SAME` stands for what it was."""
        return self.add("Reshape", x, self._indices(shape))

    def transpose(self, x: str, *axes: int) -> str:
        """The same values with their axes in another order."""
        return self.add("Transpose", x, perm=axes)

    def reduce(self, operation: str, x: str, axis: int, *, keep: bool) -> str:
        """A sum or a mean over one axis."""
        return self.add(operation, x, self._indices([axis]), keepdims=int(keep))

    def _indices(self, values: Sequence[int]) -> str:
        return self._store(f"indices/{values}", np.array(values, np.int64))

    def _store(self, name: str, value: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name


def normalize(graph: Graph, images: str, mean: np.ndarray, std: np.ndarray) -> str:
    """Zero mean and unit deviation for each channel of pixels, `[B, H, W, C]`."""
    pixels = graph.add("Cast", images, to=TensorProto.FLOAT)
    centred = graph.add("Sub", pixels, graph.constant("mean", mean))
    return graph.add("Div", centred, graph.constant("std", std))


def network(graph: Graph, module: EANet, images: str) -> str:
    """From normalised images, `[B, H, W, C]`, to logits.

    Raises:
      UserError: a part is of a kind that is not in the tables below.
    """
    x = _of_kind(_STEMS, module.patch_embed, "stem")(
        graph.at("patch_embed"), module.patch_embed, images
    )
    for index in range(module.depth):
        x = _block(graph.at("blocks").at(index), module.block(index), x)
    if module.final_norm is not None:
        x = _layer_norm(graph.at("final_norm"), module.final_norm, x)
    x = _of_kind(_POOLINGS, module.pooling, "pooling")(graph.at("pooling"), module.pooling, x)
    return _linear(graph.at("head"), module.head, x)


def _block(graph: Graph, block: Block, x: str) -> str:
    if block.local_mixing is not None:
        x = _local_mixing(graph.at("local_mixing"), block.local_mixing, x)
    if block.attention_norm is not None:
        attend = _of_kind(_ATTENTIONS, block.attention, "attention")
        normalized = _layer_norm(graph.at("attention_norm"), block.attention_norm, x)
        attended = attend(graph.at("attention"), block.attention, normalized)
        x = graph.add(
            "Add", x, _scaled(graph.at("attention_scale"), block.attention_scale, attended)
        )
    normalized = _layer_norm(graph.at("mlp_norm"), block.mlp_norm, x)
    mapped = _mlp(graph.at("mlp"), block.mlp, normalized)
    return graph.add("Add", x, _scaled(graph.at("mlp_scale"), block.mlp_scale, mapped))


def _scaled(graph: Graph, scale: ResidualScale | None, branch: str) -> str:
    return (
        branch
        if scale is None
        else graph.add("Mul", branch, graph.constant("scale", scale.scale[...]))
    )


def _affine(graph: Graph, x: str, kernel: tuple[str, Any], bias: tuple[str, Any]) -> str:
    """`x kernel + bias` over the last axis; both with their names."""
    product = graph.add("MatMul", x, graph.constant(*kernel))
    return graph.add("Add", product, graph.constant(*bias))


def _linear(graph: Graph, layer: Linear, x: str) -> str:
    return _affine(graph, x, ("kernel", layer.kernel[...]), ("bias", layer.bias[...]))


def _layer_norm(graph: Graph, norm: LayerNorm, x: str) -> str:
    scale, bias = graph.constant("scale", norm.scale[...]), graph.constant("bias", norm.bias[...])
    return graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.epsilon)


def _gelu(graph: Graph, x: str) -> str:
    return graph.add("Gelu", x, approximate="none")


def _mlp(graph: Graph, mlp: Mlp, x: str) -> str:
    hidden = _gelu(graph, _linear(graph.at("hidden"), mlp.hidden, x))
    return _linear(graph.at("out"), mlp.out, hidden)


def _convolution(graph: Graph, layer: Linear, x: str, side: int, **options: Any) -> str:
    """Of `[B, C, rows, columns]`, by a `Linear` over what a square of pixels holds."""
    inputs, outputs = layer.kernel.shape
    kernel = np.asarray(layer.kernel[...]).reshape(side, side, inputs // side**2, outputs)
    names = (
        graph.constant("kernel", kernel.transpose(3, 2, 0, 1)),
        graph.constant("bias", layer.bias[...]),
    )
    return graph.add("Conv", x, *names, **options)


def _tokens(graph: Graph, stem: Any, x: str) -> str:
    """Rows of tokens, with their places, of `[B, d, rows, columns]`."""
    embed_dim = stem.position_embedding.shape[1]
    x = graph.transpose(graph.reshape(x, _SAME, embed_dim, math.prod(stem.grid)), 0, 2, 1)
    places = graph.constant("position_embedding", stem.position_embedding[...])
    return graph.add("Add", x, places)


def _patches(graph: Graph, stem: Patches, images: str) -> str:
    side, x = stem.patch_size, graph.transpose(images, 0, 3, 1, 2)
    options = {"kernel_shape": [side, side], "strides": [side, side]}
    x = _convolution(graph.at("projection"), stem.projection, x, side, **options)
    return _tokens(graph, stem, x)


def _convolutions(graph: Graph, stem: Convolutions, images: str) -> str:
    x = graph.transpose(images, 0, 3, 1, 2)
    for index, layer in enumerate(stem.layers):
        if index:
            norm = stem.norms[index - 1]
            x = graph.transpose(x, 0, 2, 3, 1)
            x = _gelu(graph, _layer_norm(graph.at("norms").at(index - 1), norm, x))
            x = graph.transpose(x, 0, 3, 1, 2)
        x = _convolution(graph.at("layers").at(index), layer, x, 3, strides=[2, 2], **_AROUND)
    return _tokens(graph, stem, x)


def _local_mixing(graph: Graph, mixing: LocalMixing, x: str) -> str:
    embed_dim = mixing.kernel.shape[0]
    kernel = np.asarray(mixing.kernel[...]).reshape(embed_dim, 1, 3, 3)
    names = graph.constant("kernel", kernel), graph.constant("bias", mixing.bias[...])
    image = graph.reshape(graph.transpose(x, 0, 2, 1), _SAME, embed_dim, *mixing.grid)
    mixed = graph.add("Conv", image, *names, group=embed_dim, **_AROUND)
    mixed = graph.reshape(mixed, _SAME, embed_dim, math.prod(mixing.grid))
    return graph.add("Add", x, graph.transpose(mixed, 0, 2, 1))


def _double(graph: Graph, logits: str) -> str:
    weights = graph.add("Softmax", logits, axis=1)
    sums = graph.reduce("ReduceSum", weights, 3, keep=True)
    return graph.add("Div", weights, graph.add("Add", sums, graph.constant("epsilon", EPSILON)))


def _external_attention(graph: Graph, attention: ExternalAttention, x: str) -> str:
    embed_dim, heads, head_dim = attention.query_kernel.shape
    if attention.norm not in _NORMS:
        raise UserError(_refusal("norm", attention.norm, _NORMS))

    def parameter(name: str, *shape: int) -> tuple[str, Any]:
        return name, np.asarray(getattr(attention, name)[...]).reshape(shape or -1)

    tokens, units, width = x, attention.key_memory.shape[1], heads * head_dim
    queries = _affine(
        graph, tokens, parameter("query_kernel", embed_dim, width), parameter("query_bias")
    )
    queries = graph.reshape(queries, _SAME, _SAME, heads, head_dim)
    logits = _affine(
        graph, queries, parameter("key_memory", head_dim, units), parameter("key_memory_bias")
    )
    groups = attention.norm_groups
    if groups > 1:
        logits = graph.reshape(logits, _SAME, _SAME, heads, units // groups, groups)
    weights = _NORMS[attention.norm](graph, logits)
    if groups > 1:
        weights = graph.reshape(weights, _SAME, _SAME, heads, units)
    read = _affine(
        graph, weights, parameter("value_memory", units, head_dim), parameter("value_memory_bias")
    )
    joined = graph.reshape(read, _SAME, _SAME, width)
    return _affine(graph, joined, parameter("out_kernel", width, embed_dim), parameter("out_bias"))


def _self_attention(graph: Graph, attention: SelfAttention, x: str) -> str:
    heads, width = attention.num_heads, attention.query.kernel.shape[1]
    head_dim = width // heads

    def split(part: str, *axes: int) -> str:
        mapped = _linear(graph.at(part), getattr(attention, part), x)
        return graph.transpose(graph.reshape(mapped, _SAME, _SAME, heads, head_dim), *axes)

    scale = graph.constant("scale", 1 / math.sqrt(head_dim))
    query = graph.add("Mul", split("query", 0, 2, 1, 3), scale)
    weights = graph.add("Softmax", graph.add("MatMul", query, split("key", 0, 2, 3, 1)), axis=-1)
    read = graph.add("MatMul", weights, split("value", 0, 2, 1, 3))
    joined = graph.reshape(graph.transpose(read, 0, 2, 1, 3), _SAME, _SAME, width)
    return _linear(graph.at("out"), attention.out, joined)


def _mean(graph: Graph, pooling: Mean, x: str) -> str:
    del pooling
    return graph.reduce("ReduceMean", x, 1, keep=False)


def _sequence_pooling(graph: Graph, pooling: SequencePooling, x: str) -> str:
    logits = graph.add("MatMul", x, graph.constant("query", pooling.query[...]))
    weighted = graph.add("Mul", x, graph.add("Softmax", logits, axis=1))
    return graph.reduce("ReduceSum", weighted, 1, keep=False)


Part = Callable[[Graph, Any, str], str]  # from the name of its input to that of its output
_STEMS: dict[type, Part] = {Patches: _patches, Convolutions: _convolutions}
_ATTENTIONS: dict[type, Part] = {
    ExternalAttention: _external_attention,
    FastExternalAttention: _external_attention,
    SelfAttention: _self_attention,
}
_POOLINGS: dict[type, Part] = {Mean: _mean, SequencePooling: _sequence_pooling}
_NORMS: dict[str, Callable[[Graph, str], str]] = {
    "double": _double,
    "softmax_tokens": lambda graph, logits: graph.add("Softmax", logits, axis=1),
    "softmax_memory": lambda graph, logits: graph.add("Softmax", logits, axis=3),
    "none": lambda graph, logits: logits,
}


def _of_kind(parts: dict[type, Part], module: Any, option: str) -> Part:
    kind = type(module)
    if kind not in parts:
        raise UserError(_refusal(option, kind.__name__, [part.__name__ for part in parts]))
    return parts[kind]


def _refusal(option: str, found: str, known: Any) -> str:
    return (
        f"ONNX is not written of model.{option} of the kind {found}, only of {', '.join(known)}; "
        "--format=stablehlo takes any model"
    )
