"""The formats of an export: the table that a new one is added to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eanet.export import keras, onnx_file, safetensors, stablehlo
from eanet.export.form import Form
from eanet.inference.model import Model


@dataclass(frozen=True)
class Format:
    """How a model becomes a file, and how the other side runs it."""

    about: str  # in a few words
    ending: str  # of the file's name
    program: bool  # whether it has a `Form` that can be chosen; weights alone have none
    libraries: tuple[str, ...]  # of requirements-export.txt
    runner: str  # who runs the file again
    write: Callable[[Model, Form], bytes]  # the content of the file
    # Whether it computes in the type that the run does; else in float32.
    run_type: bool
    # The path of a file, the model that it was written of, and batches of images: the answers.
    answer: Callable[[Path, Model, list[np.ndarray]], list[np.ndarray]]


FORMATS = {
    "stablehlo": Format(
        about="a program for CPU, CUDA and TPU, which JAX runs",
        ending=".stablehlo",
        program=True,
        libraries=("flatbuffers",),
        runner="jax.export in a process of its own",
        write=stablehlo.write,
        run_type=False,
        answer=stablehlo.answer,
    ),
    "onnx": Format(
        about="a program for ONNX Runtime and others",
        ending=".onnx",
        program=True,
        libraries=("onnx", "onnxruntime"),
        runner="ONNX Runtime",
        write=onnx_file.write,
        run_type=False,
        answer=onnx_file.answer,
    ),
    "safetensors": Format(
        about="weights with all that they need, which eanet.load reads",
        ending=".safetensors",
        program=False,
        libraries=("safetensors",),
        runner="eanet.load",
        write=safetensors.write,
        run_type=True,
        answer=safetensors.answer,
    ),
    "keras": Format(
        about="weights of the Keras example's model",
        ending=".weights.h5",
        program=False,
        libraries=("keras",),
        runner="Keras",
        write=keras.write,
        run_type=False,
        answer=keras.answer,
    ),
}
