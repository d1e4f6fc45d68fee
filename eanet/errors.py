"""The ways in which a run may end that are not the program's fault."""

# The exit code of a process that ends because another one of its training has.
PEER_ENDED = 4
# That of the tool `prepare` where nothing but TensorFlow is missing, which one can then install.
NEEDS_TENSORFLOW = 5

_LONGEST = 1000


def printable(text: str) -> str:
    """The text with escapes for what a terminal would obey: a file's name may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def as_line(text: str) -> str:
    """One line of printable text, shortened in the middle where it is very long."""
    line = printable(" ".join(text.split()))
    if len(line) <= _LONGEST:
        return line
    half = _LONGEST // 2
    return f"{line[:half]} … {line[-half:]}"


class UserError(Exception):
    """The user's input is at fault; the exit code is 2.

    The message is one line: what is wrong, where, and what to do.
    """

    def __init__(self, message: str):
        super().__init__(as_line(message))


class NeedsTensorFlow(UserError):
    """A data set is not prepared, and what would prepare it is not installed."""


class TrainingDiverged(Exception):
    """Loss or gradients are no longer finite; the exit code is 3."""


class Interrupted(Exception):
    """A signal ended training after the state was saved; the exit code is 128 + signal."""

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.signal = signal


def exit_code(error: Exception) -> int:
    """The code with which the program ends for this reason; 1 for a fault of its own."""
    match error:
        case UserError():
            return 2
        case TrainingDiverged():
            return 3
        case Interrupted():
            return 128 + error.signal
    return 1
