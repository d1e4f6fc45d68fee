"""The keys of a config in the words of a sweep's report."""

from collections.abc import Iterable
from typing import Any

SEED = "seed"
# Runs that differ in these alone are of one setting.
NO_SETTING = {SEED, "dataset.data_dir"}
# What a person asks about first: symbol and meaning; other keys have their own names.
KNOWN = {"model.memory_size": ("S", "memory units"), "model.embed_dim": ("d", "width of a token")}


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """For each key its last part, or all of it where two keys end alike."""
    keys = list(keys)
    ends = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def symbols(keys: Iterable[str]) -> dict[str, str]:
    """For each key its symbol, else its short name."""
    return {key: KNOWN.get(key, [name])[0] for key, name in short_names(keys).items()}


def label(key: str) -> str:
    """What stands at the axis of a picture."""
    return ", ".join(KNOWN.get(key, [key]))


def shown_value(value: Any) -> str:
    """A value of a setting."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
