"""Writes the weights of a run as Keras 3 reads them.

The model of the Keras example with the sizes of the run, as `eanet.convert.keras_model.build` or
the example's own code builds it, loads the file with `model.load_weights`.
"""

from pathlib import Path

from eanet.cli import Parser, say
from eanet.convert import keras_files
from eanet.convert.keras_architecture import Architecture, architecture_of
from eanet.convert.keras_weights import to_keras
from eanet.errors import UserError
from eanet.inference.load import load


def export(workdir: Path, out: Path, checkpoint: str = "best") -> Architecture:
    """Writes the weights that evaluation uses, and the mean and variance of the training images.

    Raises:
      UserError: the workdir is no run, its model is not of the Keras example's kind, or the file
        exists already or cannot be written.
    """
    if not out.name.endswith(".weights.h5"):
        raise UserError(f"Keras reads weights only from files named *.weights.h5, not {out}")
    if out.exists():
        raise UserError(f"{out} exists already; choose another name")
    model = load(workdir, checkpoint, log=say)
    try:
        sizes = architecture_of(model.config.model, len(model.class_names), model.image_shape)
    except UserError as error:
        raise UserError(f"{workdir}: {error}") from None
    keras_files.write(out, to_keras(model.params, sizes), model.record.mean, model.record.std)
    return sizes


def main(arguments: list[str], prog: str) -> None:
    """The command `export-keras`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("workdir", type=Path, help="directory of a run")
    parser.add_argument("out", type=Path, help="file to write, *.weights.h5")
    parser.add_argument("--checkpoint", default="best", help="best (the default), latest or a step")
    options = parser.parse_args(arguments)
    say(f"{options.out}: {export(options.workdir, options.out, options.checkpoint)}")
