"""A program of ONNX, see `eanet.export.onnx_graph`; what is needed is imported where it is used."""

import json
from pathlib import Path

import numpy as np

from eanet.errors import UserError
from eanet.export.form import Form
from eanet.inference.model import Model
from eanet.version import __version__

_IR_VERSION = 10  # of the file's own form: what runtimes of two years ago read


def write(model: Model, form: Form) -> bytes:
    """The content of a file, in whose metadata are class names, mean and deviation.

    Raises:
      UserError: the model has a part that is not written as ONNX, or computes in another dtype.
    """
    import onnx
    from onnx import helper

    from eanet.export import onnx_graph

    if (dtype := model.config.model.dtype) != "float32":
        raise UserError(
            f"ONNX is written in float32, not of model.dtype={dtype}; "
            "--format=stablehlo takes any model"
        )
    graph = onnx_graph.Graph()
    x = "images" if form.bare else onnx_graph.normalize(graph, "images", model.mean, model.std)
    logits = onnx_graph.network(graph, model.network.merge(model.params), x)
    last = logits if form.bare else graph.add("Softmax", logits, axis=-1)
    graph.rename(last, form.output)
    batch = form.batch or "batch"
    kind = helper.np_dtype_to_tensor_dtype(form.dtype)
    floats = onnx.TensorProto.FLOAT
    content = helper.make_graph(
        graph.nodes,
        "eanet",
        [helper.make_tensor_value_info("images", kind, [batch, *model.image_shape])],
        [helper.make_tensor_value_info(form.output, floats, [batch, len(model.class_names)])],
        list(graph.constants.values()),
    )
    opset = [helper.make_opsetid("", onnx_graph.OPSET)]
    written = helper.make_model(
        content,
        opset_imports=opset,
        ir_version=_IR_VERSION,
        producer_name="eanet",
        producer_version=__version__,
    )
    names = {
        "class_names": model.class_names,
        "mean": model.record.mean,
        "std": model.record.std,
        "resize": model.record.resize_policy,
    }
    helper.set_model_props(written, {name: json.dumps(value) for name, value in names.items()})
    onnx.checker.check_model(written, full_check=True)
    return written.SerializeToString(deterministic=True)


def answer(path: Path, model: Model, batches: list[np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime answers, on the CPU."""
    import onnxruntime

    del model
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [session.run(None, {"images": images})[0] for images in batches]
