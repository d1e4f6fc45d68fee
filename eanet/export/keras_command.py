"""Writes the weights of a run as Keras 3 reads them: `export --format=keras`, by its older name.

The model of the Keras example with the sizes of the run, as `eanet.convert.keras_model.build` or
the example's own code builds it, loads the file with `model.load_weights`.
"""

from eanet.cli import Parser
from eanet.export import command
from eanet.inference.place import ABOUT


def main(arguments: list[str], prog: str) -> None:
    """The command `export-keras`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("run", metavar="RUN", help=ABOUT)
    parser.add_argument("out", metavar="FILE", help="to be written, *.weights.h5")
    parser.add_argument("--checkpoint", default="best", help="best (the default), latest or a step")
    options = parser.parse_args(arguments)
    chosen = [f"--out={options.out}", f"--checkpoint={options.checkpoint}"]
    command.main([options.run, "--format=keras", *chosen], prog)
