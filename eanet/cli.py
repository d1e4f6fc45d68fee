"""What every command line of this project does alike: parsing, one-line errors, exit codes.

Exit codes: 0 done; 2 the user's input is at fault; 3 training diverged; 128 + signal interrupted,
with the state saved. For all but the first, one line on standard error says why.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from eanet.errors import Interrupted, TrainingDiverged, UserError, as_line


def run(main: Callable[[], int | None]) -> NoReturn:
    """Calls `main`, says in one line what went wrong, and exits with its code."""
    message = ""
    try:
        code = main() or 0
    except UserError as error:
        code, message = 2, f"error: {error}"
    except TrainingDiverged as error:
        code, message = 3, f"error: {error}"
    except Interrupted as error:
        code, message = 128 + error.signal, str(error)
    except KeyboardInterrupt:
        code, message = 128 + signal.SIGINT, "interrupted"
    sys.stdout.flush()
    if message:
        print(as_line(message), file=sys.stderr, flush=True)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """An `argparse` parser whose errors are `UserError`s; it takes no abbreviated options."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Refuses the command line."""
        raise UserError(f"{message} ({self.prog} --help explains)")
