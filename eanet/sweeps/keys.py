"""The keys of a config in the words of a sweep's report."""

from collections.abc import Iterable
from typing import Any

# What a person asks about first: its name and its symbol; other keys have their names in words.
KNOWN = {"model.memory_size": ("memory units S", "S"), "model.embed_dim": ("token width d", "d")}
_WORDS = {"num": "", "dim": "width", "mlp": "MLP", "ema": "EMA", "dataset": "data set"}


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """For each key its last part, or all of it where two keys end alike."""
    keys = list(keys)
    ends = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def headings(keys: Iterable[str]) -> dict[str, str]:
    """For each key what stands above a column or at an axis: "learning rate"."""
    names = short_names(keys).items()
    # An optimizer, and no "name" of it.
    words = {key: key.split(".")[-2] if name == "name" else name for key, name in names}
    return {key: KNOWN.get(key, [_in_words(name)])[0] for key, name in words.items()}


def symbols(keys: Iterable[str]) -> dict[str, str]:
    """For each key its symbol, else its heading."""
    return {key: KNOWN.get(key, [text])[-1] for key, text in headings(keys).items()}


def shown_value(value: Any) -> str:
    """A value of a setting."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_values(values: dict[str, Any], told: Iterable[str] | None = None) -> str:
    """The values of a setting by full key, in one line: "S = 4, learning rate = 0.001".

    Only of the keys `told`, if given, in words that tell these from all the others.
    """
    words = symbols(values)
    shown = values if told is None else told
    return ", ".join(f"{words[key]} = {shown_value(values[key])}" for key in shown)


def _in_words(name: str) -> str:
    parts = name.replace(".", "_").split("_")
    return " ".join(filter(None, (_WORDS.get(part, part) for part in parts))) or name
