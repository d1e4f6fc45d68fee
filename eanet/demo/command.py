"""Tries a trained run in a browser: drop an image, see its classes and the attention on it.

The page asks nothing of any other machine. With --space=DIR nothing is served: the folder of a
Space of Hugging Face is written, with the weights in it; `python app.py` there is the same page.
"""

from eanet import files
from eanet.atlas.photos import Viewer
from eanet.cli import Parser
from eanet.demo import server, space
from eanet.display.console import Console
from eanet.errors import UserError
from eanet.inference.load import load
from eanet.inference.place import ABOUT, Place

_HOST, _PORT = "127.0.0.1", 7860  # the port that a Space listens on
_TOP = 5  # classes


def main(arguments: list[str], prog: str) -> None:
    """The command `demo`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("run", metavar="RUN", help=ABOUT)
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    parser.add_argument("--host", help=f"address to listen on; default: {_HOST}, this machine only")
    parser.add_argument("--port", type=int, help=f"default: {_PORT}; 0 for any that is free")
    parser.add_argument("--space", metavar="DIR", help="write the folder of a Space instead")
    options = parser.parse_args(arguments)
    if options.space is not None and (options.host or options.port) is not None:
        raise UserError("--host and --port are about serving, and --space serves nothing")
    if not 0 <= (options.port or 0) < 2**16:
        raise UserError(f"--port={options.port} must be from 0 to {2**16 - 1}")
    console = Console()
    place = Place.of(options.run)
    if options.space is not None:
        out = files.local_path(options.space)
        space.check_place(out)
        model = load(place.text, options.checkpoint, log=console.warn)
        Viewer(model)  # refuses what the page could not show
        space.write(out, place.name, model)
        console.note(f"written to {out}: try python app.py there, or send it to huggingface.co")
        return
    server.check_installed()
    host, port = options.host or _HOST, _PORT if options.port is None else options.port
    with server.listening(host, port) as listener:
        model = load(place.text, options.checkpoint, log=console.warn)
        viewer = Viewer(model, top=min(_TOP, len(model.class_names)))
        server.serve(listener, viewer, place.name, repr(model).strip("<>"), console.note)
