"""From the definition of a sweep to its runs: checked, named, and told apart."""

import hashlib
import json
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet.errors import UserError
from eanet.sweeps.spec import Between, OneOf, Overrides, Space

_MAX_NAME = 120  # characters; file systems allow 255 bytes
_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
      name: of its directory, made of what it overrides.
      overrides: full key to value.
      config: the resolved config.
    """

    name: str
    overrides: Overrides
    config: ConfigDict

    @property
    def digest(self) -> str:
        """What the run is: equal for equal configs alone."""
        return digest(config_lib.lasting(self.config))


@dataclass(frozen=True)
class SweepPlan:
    """The runs of a sweep in their order, and what should be known before they start.

    Attributes:
      title: short, for the name of a directory.
      keys: all keys that some run overrides.
      runs: no two with the same config.
      warnings: a line each.
    """

    title: str
    keys: tuple[str, ...]
    runs: tuple[PlannedRun, ...]
    warnings: tuple[str, ...]


def digest(values: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that differ between values of configs."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def plan(definition: str, module: ModuleType, base: ConfigDict) -> SweepPlan:
    """The runs that `--sweep=DEFINITION` stands for.

    Args:
      definition: NAME of a function `sweep_NAME` of the config file, or the runs themselves as in
        `model.memory_size=4,16;seed=0..2`, every value of one key with every value of the others.
      module: of the config file.
      base: what the runs override.

    Raises:
      UserError: for an unknown name or key, a value of a wrong type, or no runs at all.
    """
    if "=" in definition:
        where, title, overrides = "--sweep", *_parse(definition, base)
    else:
        title = definition.removeprefix("sweep_")
        where, overrides = f"sweep_{title}", _call(module, "sweep", title)
    runs = [_resolve(f"{where}, run {n}", each, base) for n, each in enumerate(overrides, 1)]
    if not runs:
        raise UserError(f"{where} has no runs")
    keys = tuple(dict.fromkeys(key for run in runs for key in run))
    distinct, identical = _without_repetitions(_named(runs, keys, base))
    planned = tuple(_with_names_of_their_own(distinct))
    return SweepPlan(title, keys, planned, (*identical, *_confounded(planned, keys)))


def search_space(name: str, module: ModuleType, base: ConfigDict) -> Space:
    """The space that `search_NAME` of the config file describes.

    Raises:
      UserError: for an unknown name or key, or values that the key cannot have.
    """
    where = f"search_{name.removeprefix('search_')}"
    space = _call(module, "search", name.removeprefix("search_"))
    if not isinstance(space, Mapping) or not space:
        raise UserError(f"{where} must give {{key: Between(...) or OneOf(...)}}, not {space!r}")
    for key, values in space.items():
        if isinstance(values, Between):
            ends: Sequence[Any] = (values.low, values.high)
            if not values.low < values.high or (values.log and values.low <= 0):
                raise UserError(f"{where}: {key} has an empty range, {values}")
        elif isinstance(values, OneOf) and values.values:
            ends = values.values
        else:
            raise UserError(f"{where}: {key} needs Between(...) or OneOf(...), not {values!r}")
        for value in ends:
            _resolve(where, {key: value}, base)
    return dict(space)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """For each key its last part, or all of it where two keys end alike."""
    keys = list(keys)
    ends = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def _parse(definition: str, base: ConfigDict) -> tuple[str, list[Overrides]]:
    runs: list[Overrides] = [{}]
    keys: list[str] = []
    for part in filter(None, (part.strip() for part in definition.split(";"))):
        key, equals, values = (text.strip() for text in part.partition("="))
        if not equals or not values:
            raise UserError(f"--sweep: {part!r} is not of the form key=value,value")
        if key in keys:
            raise UserError(f"--sweep: {key} stands twice")
        keys.append(key)
        current = _value_in(base, key, "--sweep")
        parsed = [
            each for text in values.split(",") for each in _parse_value(key, text.strip(), current)
        ]
        runs = [{**run, key: value} for run in runs for value in parsed]
    return "_".join(short_names(keys).values()), runs if keys else []


def _parse_value(key: str, text: str, current: Any) -> list[Any]:
    """The values that a text stands for, where the config has `current`."""
    span = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text)
    try:
        if isinstance(current, bool):
            return [{"true": True, "false": False}[text.lower()]]
        if isinstance(current, int) and span:
            first, last = int(span[1]), int(span[2])
            if first > last:
                raise UserError(f"--sweep: {key}={text} is an empty range")
            return list(range(first, last + 1))
        if isinstance(current, int | float):
            return [type(current)(text)]
    except (KeyError, ValueError):
        raise UserError(f"--sweep: {key} must be {_TYPES[type(current)]}, not {text!r}") from None
    return [text]


def _call(module: ModuleType, kind: str, name: str) -> Any:
    """What the function KIND_NAME of a config file gives."""
    known = {n.removeprefix(f"{kind}_"): f for n, f in vars(module).items() if callable(f)
             and n.startswith(f"{kind}_")}  # fmt: skip
    if name not in known:
        near = get_close_matches(name, known, 1)
        there = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise UserError(f"{module.__file__} has no {kind} {name!r}; {there}")
    try:
        made = known[name]()
        return made if isinstance(made, Mapping) else list(made)
    except Exception as error:  # whatever the user's function does wrong
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        raise UserError(
            f"{kind}_{name} of {module.__file__}, line {line}: {type(error).__name__}: {error}"
        ) from error


def _resolve(where: str, overrides: Any, base: ConfigDict) -> Overrides:
    """The overrides with every key known and every value of the type that it has in the base."""
    if not isinstance(overrides, Mapping):
        raise UserError(f"{where}: must be a dict of overrides, not {overrides!r}")
    resolved = {}
    for key, value in overrides.items():
        current = _value_in(base, key, where)
        kind = type(current)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UserError(f"{where}: {key} must be {_TYPES.get(kind, kind.__name__)}, "
                            f"not {value!r}")  # fmt: skip
        resolved[key] = value
    return resolved


def _value_in(config: ConfigDict, key: Any, where: str) -> Any:
    try:
        config_lib.check_key(str(key), dict(config_lib.flatten(config)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return dict(config_lib.flatten(config))[key]


def _named(
    runs: Iterable[Overrides], keys: Iterable[str], base: ConfigDict
) -> list[PlannedRun]:  # fmt: skip
    shown = short_names(keys)
    return [
        PlannedRun(
            ",".join(f"{shown[key]}={_shown(value)}" for key, value in run.items()) or "base",
            run,
            config_lib.override(base, run),
        )
        for run in runs
    ]


def _shown(value: Any) -> str:
    """A value as a part of a file's name."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.+-]", "-", text)


def _without_repetitions(runs: Iterable[PlannedRun]) -> tuple[list[PlannedRun], list[str]]:
    kept: dict[str, PlannedRun] = {}
    warnings = []
    for run in runs:
        first = kept.setdefault(run.digest, run)
        if first is not run:
            warnings.append(f"{run.name} is identical to {first.name}: they run only once")
    return list(kept.values()), warnings


def _with_names_of_their_own(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Different values may look alike as parts of a file's name, or make it too long."""
    names = [run.name for run in runs]
    return [
        run
        if names.count(run.name) == 1 and len(run.name) <= _MAX_NAME
        else replace(run, name=f"{run.name[:_MAX_NAME]},{run.digest}")
        for run in runs
    ]


def _confounded(runs: Sequence[PlannedRun], keys: Sequence[str]) -> list[str]:
    """A warning for each group of keys that change from run to run only together."""
    groups: dict[tuple[int, ...], list[str]] = {}
    configs = [dict(config_lib.flatten(run.config)) for run in runs]
    for key in keys:
        values = [config[key] for config in configs]
        distinct = list(dict.fromkeys(values))
        if len(distinct) > 1:
            pattern = tuple(distinct.index(value) for value in values)
            groups.setdefault(pattern, []).append(key)
    return [
        f"{' and '.join(group)} always change together: their effects cannot be told apart"
        for group in groups.values()
        if len(group) > 1
    ]
