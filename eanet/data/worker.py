"""Decodes examples for another process: lines of JSON come in, pixels go out.

The first line is a `Recipe`, each one after it says what to see of which examples. The answer is a
line with what is wrong, or null and then the bytes. Nothing else is written to the standard output.
The argument is the open file by which workers take turns, see `eanet.data.turn`.
"""

import json
import os
import sys

from eanet.data import images as images_lib
from eanet.data import turn
from eanet.data.base import Recipe
from eanet.data.reading import look, room
from eanet.errors import UserError


def main() -> None:
    """Answers until the standard input ends."""
    with os.fdopen(os.dup(1), "wb") as answers, images_lib.quietly():
        os.dup2(2, 1)
        turn.share(int(sys.argv[1]))
        recipe = Recipe(**json.loads(sys.stdin.buffer.readline()))
        for line in sys.stdin.buffer:
            asked = json.loads(line)
            out, error = room(asked["what"], recipe, len(asked["references"])), None
            try:
                look(recipe=recipe, out=out, **asked)
            except UserError as reason:
                error = str(reason)
            answers.write(json.dumps(error).encode() + b"\n")
            if error is None:
                answers.write(out.tobytes())
            answers.flush()


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)
