"""A program of StableHLO, as `jax.export` writes it: for CPU, CUDA and TPU in one file.

`jax.export.deserialize(content).call(images)` runs it, with JAX alone.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax import export

from eanet import precision
from eanet.errors import UserError
from eanet.export.form import Form
from eanet.inference.model import Model
from eanet.training.batches import normalizer

PLATFORMS = ("cpu", "cuda", "tpu")

_FRAMES = "jax_traceback_in_locations_limit"


def write(model: Model, form: Form) -> bytes:
    """The content of a file."""
    normalize = normalizer(model.mean, model.std)

    def answer(images: jax.Array) -> jax.Array:
        network = model.network.merge(model.params)
        return network(images) if form.bare else jax.nn.softmax(network(normalize(images)))

    precise = precision.at(model.config.matmul_precision, answer)
    (batch,) = export.symbolic_shape("batch") if form.batch is None else (form.batch,)
    images = jax.ShapeDtypeStruct((batch, *model.image_shape), form.dtype)
    with _without_places():
        return bytes(export.export(jax.jit(precise), platforms=PLATFORMS)(images).serialize())


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keeps out of a program from which files on this machine its operations are."""
    before = getattr(jax.config, _FRAMES)
    jax.config.update(_FRAMES, 0)
    try:
        yield
    finally:
        jax.config.update(_FRAMES, before)


def answer(path: Path, model: Model, batches: list[np.ndarray]) -> list[np.ndarray]:
    """What the program answers on a CPU, in a process that knows nothing of this project.

    Raises:
      UserError: it cannot be run there.
    """
    del model
    with tempfile.TemporaryDirectory() as directory:
        asked, answered = Path(directory) / "asked.npz", Path(directory) / "answered.npz"
        np.savez(asked, *batches)
        script = Path(__file__).with_name("stablehlo_call.py")
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(path), str(asked), str(answered)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},  # this process may hold all of another
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise UserError(f"the exported program fails in a process of its own: {last}")
        with np.load(answered, allow_pickle=False) as answers:
            return [answers[name] for name in answers.files]
