"""What every command line of this project does alike: parsing, one-line errors, exit codes.

Exit codes: 0 done; 2 the user's input is at fault; 3 training diverged; 4 another process of the
training has ended, hangs or does not come; 5 TensorFlow is missing, of the tool `prepare` alone;
128 + signal interrupted, with the state saved. For all
but the first, one line on standard error says why.
"""

import argparse
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from eanet import signals, streams
from eanet.errors import (
    Interrupted,
    TrainingDiverged,
    UserError,
    as_line,
    exit_code,
    printable,
)

_OPEN_FILES_NEEDED, _OPEN_FILES_WANTED = 64, 1024


def run(main: Callable[[], int | None]) -> NoReturn:
    """Calls `main`, says in one line what went wrong, and exits with its code.

    Standard output may be lost meanwhile; what is done goes on without it.
    """
    streams.tolerate_loss()
    message = ""
    try:
        _allow_open_files()
        with signals.end_at_stop():
            code = main() or 0
    except (UserError, TrainingDiverged) as error:
        code, message = exit_code(error), f"error: {error}"
    except Interrupted as error:
        code, message = exit_code(error), str(error)
    except KeyboardInterrupt:
        code, message = 128 + signal.SIGINT, "interrupted"
    finally:  # absl exits by itself
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: nothing is left to interrupt
    sys.stdout.flush()
    if message:
        print(as_line(message), file=sys.stderr, flush=True)
    sys.exit(code)


def _allow_open_files() -> None:
    """Makes room for the files that JAX, Orbax and a run hold open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES_WANTED)
    if most < _OPEN_FILES_NEEDED:
        raise UserError(
            f"only {most} files may be open at once here; allow {_OPEN_FILES_NEEDED} or more "
            "with ulimit -n"
        )
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def say(line: object) -> None:
    """Prints a line at once; whatever no terminal should see of it is escaped."""
    print(printable(str(line)), flush=True)


class Parser(argparse.ArgumentParser):
    """An `argparse` parser whose errors are `UserError`s; it takes no abbreviated options."""

    def __init__(self, prog: str, about: str | None):
        super().__init__(
            prog=prog,
            description=about,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_known_args(self, args=None, namespace=None):
        """As of `argparse`, but that an empty value is refused: as a path it would be `.`."""
        for argument in sys.argv[1:] if args is None else args:
            if not argument or re.fullmatch(r"--[\w-]+=", argument):
                self.error(f"{argument or repr(argument)} is empty: give a value, or leave it out")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuses the command line."""
        raise UserError(f"{message} ({self.prog} --help explains)")


def in_checkout(name: str, advice: str) -> Path:
    """A file of this project that is not installed; `UserError` with advice outside a checkout."""
    path = Path(__file__).parents[1] / name
    if not path.is_file():
        raise UserError(f"the installed package has no {name}, only a checkout has; {advice}")
    return path
