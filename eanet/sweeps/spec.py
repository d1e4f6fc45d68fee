"""How a config file says which runs belong together.

    from eanet import sweep

    def sweep_memory_and_width():
        return sweep.product(
            sweep.axis("model.memory_size", 4, 16, 64),
            sweep.axis("model.embed_dim", 32, 64),
            sweep.seeds(2),
        )

is a sweep of twelve runs: each is a flat dict of what it overrides in the file's own config. Any
iterable of such dicts will do, these helpers only save writing. A space to search has one entry
a key, and no end:

    def search_memory():
        return {"model.memory_size": sweep.OneOf(4, 16, 64),
                "optimizer.learning_rate": sweep.Between(1e-4, 1e-2, log=True)}
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Overrides = dict[str, Any]


def axis(key: str, *values: Any) -> list[Overrides]:
    """One run for each value of a key."""
    return [{key: value} for value in values]


def seeds(count: int, first: int = 0) -> list[Overrides]:
    """One run for each of `count` seeds."""
    return axis("seed", *range(first, first + count))


def product(*sweeps: Iterable[Overrides]) -> Iterator[Overrides]:
    """Every run of each combined with every run of the others; the last changes fastest.

    Raises `ValueError` where two of them set the same key, as `zip_` does.
    """
    yield from map(_merged, itertools.product(*sweeps))


def zip_(*sweeps: Iterable[Overrides]) -> Iterator[Overrides]:
    """The first runs of all combined, then the second; other lengths are a `ValueError` too."""
    yield from map(_merged, zip(*sweeps, strict=True))


def chain(*sweeps: Iterable[Overrides]) -> Iterator[Overrides]:
    """The runs of one after those of the other."""
    return itertools.chain(*sweeps)


@dataclass(frozen=True)
class Between:
    """Any number from `low` to `high`, whole where the key's are; with `log`, evenly in log."""

    low: float
    high: float
    log: bool = False

    @property
    def values(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high


@dataclass(frozen=True, init=False)
class OneOf:
    """Any of these values, without an order."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", values)


Space = dict[str, Between | OneOf]


def space_as_record(space: Space) -> dict[str, dict[str, Any]]:
    """A space as a JSON object."""
    return {key: asdict(values) for key, values in space.items()}


def space_of_record(record: Mapping[str, Mapping[str, Any]]) -> Space:
    """The space of `space_as_record`; what cannot be one is a `TypeError`."""
    return {
        key: OneOf(*each["values"]) if "values" in each else Between(**each)
        for key, each in record.items()
    }


def _merged(parts: Iterable[Overrides]) -> Overrides:
    merged: Overrides = {}
    for part in parts:
        twice = merged.keys() & part.keys()
        if twice:
            raise ValueError(f"{min(twice)} is set twice in one run")
        merged |= part
    return merged
