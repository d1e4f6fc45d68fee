"""Downloads, prepares and caches a data set, and prints its sizes.

Exit code 5: TFDS could prepare it with TensorFlow, which is not installed.
"""

import sys
from pathlib import Path

from eanet import rules
from eanet.cli import Parser, say
from eanet.data.base import Wanted
from eanet.data.load import RULES, load_dataset
from eanet.data.resize import DEFAULT, RESIZES
from eanet.data.sources import prepare, refuse_unread
from eanet.data.tfds_files import not_to_decode, sizes
from eanet.errors import NEEDS_TENSORFLOW, NeedsTensorFlow


def main(arguments: list[str], prog: str) -> int:
    """The command `prepare`; returns the exit code."""
    parser = Parser(prog, __doc__)
    parser.add_argument("name", help="digits, folder:PATH or a TFDS name such as cifar100")
    parser.add_argument("--data_dir", metavar="DIR", help="where TFDS data sets are prepared")
    parser.add_argument(
        "--image_size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="that all images get, as dataset.image_size; images of TFDS that need one are only "
        "decoded with it",
    )
    parser.add_argument(
        "--resize", default=DEFAULT, choices=RESIZES, help=f"how; default: {DEFAULT}"
    )
    options = vars(parser.parse_args(arguments))
    if options["data_dir"] is not None:
        refuse_unread(options["data_dir"], options["name"])
    name, size = options.pop("name"), options["image_size"]
    rules.check({"image_size": RULES["image_size"]}, {"image_size": size}, "--")
    wanted = Wanted(image_size=size and (size[0], size[1]), resize=options["resize"])
    try:
        source = prepare(name, options["data_dir"], say, wanted)
        if source and (reason := not_to_decode(folder := Path(str(source.place)), wanted)):
            say(f"{name} is prepared in {folder}: {sizes(folder)}; not decoded yet: {reason}")
        else:
            say(load_dataset(name, log=say, **options))
    except NeedsTensorFlow as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return NEEDS_TENSORFLOW
    return 0
