"""Downloads, prepares and caches a data set, and prints its sizes."""

from eanet.cli import Parser, say
from eanet.data.load import load_dataset
from eanet.data.resize import DEFAULT, RESIZES
from eanet.data.sources import refuse_unread


def main(arguments: list[str], prog: str) -> None:
    """The command `prepare`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("name", help="digits, folder:PATH or a TFDS name such as cifar100")
    parser.add_argument("--data_dir", metavar="DIR", help="where TFDS data sets are prepared")
    parser.add_argument(
        "--image_size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="that all images get, as dataset.image_size; default: all have one size",
    )
    parser.add_argument(
        "--resize", default=DEFAULT, choices=RESIZES, help=f"how; default: {DEFAULT}"
    )
    options = vars(parser.parse_args(arguments))
    if options["data_dir"] is not None:
        refuse_unread(options["data_dir"], options["name"])
    say(load_dataset(options.pop("name"), log=say, **options))
