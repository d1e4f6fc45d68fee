"""What a value of a config may be, and the one line that refuses any other."""

import numbers
import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from eanet.errors import UserError

_MOST_PIXELS = 89_478_485  # of which Pillow does not yet suspect a decompression bomb

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


@runtime_checkable
class Rule(Protocol):
    """Which values are allowed; as a text it completes the sentence "it must be …"."""

    def allows(self, value: Any) -> bool:
        """Whether a config may have this value."""
        ...


@dataclass(frozen=True)
class Number:
    """A number from `least` to `most`; `above` leaves out the one, `below` the other."""

    least: float
    most: float
    whole: bool = False
    above: bool = False
    below: bool = False

    def allows(self, value: Any) -> bool:
        """Whether it is a number in the range; true and false are none."""
        kind: Any = numbers.Integral if self.whole else numbers.Real
        return (
            isinstance(value, kind)
            and not isinstance(value, bool)
            and self.least <= value <= self.most
            and not (self.above and value == self.least)
            and not (self.below and value == self.most)
        )

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        least = "above" if self.above else "from"
        most = "to below" if self.below else "to"
        return f"{kind} {least} {_plain(self.least)} {most} {_plain(self.most)}"


class NameIn:
    """One of some names, such as those in a table that may grow after the rule was made."""

    def __init__(self, names: Collection[str]):
        self.names = names

    def allows(self, value: Any) -> bool:
        """Whether it is one of the names."""
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


class Choice(NameIn):
    """One of a few words."""

    def __init__(self, *words: str):
        super().__init__(words)


@dataclass(frozen=True)
class Such:
    """Whatever a test says yes to; the text completes the sentence "it must be …"."""

    text: str
    allows: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.text


class Switch(Such):
    """On or off."""

    def __init__(self) -> None:
        super().__init__("true or false", lambda value: isinstance(value, bool))


class Text(Such):
    """Any text that may stand in the name of a file."""

    def __init__(self) -> None:
        super().__init__(
            "a text without null characters",
            lambda value: isinstance(value, str) and "\0" not in value,
        )


class Size(Such):
    """Height and width in pixels, as a tuple or, as JSON has it, a list."""

    def __init__(self) -> None:
        side = Number(1, 2**16 - 1, whole=True)
        super().__init__(
            f"(height, width), each {side}, of at most {_MOST_PIXELS:,} pixels",
            lambda value: (
                isinstance(value, tuple | list)
                and len(value) == 2
                and all(side.allows(each) for each in value)
                and value[0] * value[1] <= _MOST_PIXELS
            ),
        )


class OrNothing(Such):
    """What a rule allows, or None."""

    def __init__(self, rule: Rule):
        super().__init__(f"{rule}, or nothing", lambda value: value is None or rule.allows(value))


def check(rules: Mapping[str, Rule], values: Mapping[str, Any], section: str = "") -> None:
    """Raises `UserError` for the first value that its rule does not allow; every key has a rule.

    The section, such as "model.", stands before the keys in the config.
    """
    for key, value in values.items():
        if not rules[key].allows(value):
            raise UserError(f"{section}{key}={_shown(value)} must be {rules[key]}")


def _shown(value: Any) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not write whole numbers of thousands of digits
        return "(a number of thousands of digits)"


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
