"""The ways in which a run may end that are not the program's fault."""


class UserError(Exception):
    """The user's input is at fault; the exit code is 2.

    The message is one line: what is wrong, where, and what to do.
    """


class TrainingDiverged(Exception):
    """Loss or gradients are no longer finite; the exit code is 3."""


class Interrupted(Exception):
    """A signal ended training after the state was saved; the exit code is 128 + signal."""

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.signal = signal
