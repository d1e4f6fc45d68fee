"""From the definition of a sweep to its runs: checked, named, and told apart."""

import math
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import files
from eanet.errors import UserError
from eanet.sweeps.keys import short_names
from eanet.sweeps.spec import Between, OneOf, Overrides, Space, axis, product

_MOST_RUNS = 10_000
_MAX_NAME = 120  # characters; file systems allow 255 bytes
_COMMA = r",(?![^(\[]*[)\]])"  # between values; not in one, as in (32,32)


class PlannedRun(NamedTuple):
    """One run of a sweep."""

    name: str  # of its directory, made of what it overrides
    config: ConfigDict  # resolved
    settings: dict[str, Any]  # the same with full keys
    digest: str  # of the config, see `lasting`: eight hexadecimal digits


class SweepPlan(NamedTuple):
    """The runs of a sweep in their order, and what should be known before they start."""

    title: str  # short, for the name of a directory
    keys: tuple[str, ...]  # all that some run overrides
    runs: tuple[PlannedRun, ...]  # no two with the same config; seed by seed
    warnings: tuple[str, ...]  # a line each


def plan(definition: str, module: ModuleType, base: ConfigDict) -> SweepPlan:
    """The runs that `--sweep=DEFINITION` stands for.

    Args:
      definition: NAME of a function `sweep_NAME` of the config file, or the runs themselves as in
        `model.memory_size=4,16;seed=0..2`, every value of one key with every value of the others.
      module: of the config file.
      base: what the runs override; references in it follow.

    Raises:
      UserError: for an unknown name or key, a value of a wrong type, or no runs at all.
    """
    if "=" in definition:
        where = "--sweep"
        title, overrides = _parse(definition, base)
    else:
        title = definition.removeprefix("sweep_")
        where, overrides = f"sweep_{title}", _call(module, "sweep", title)
    configs = [_override(f"{where}, run {n}", base, each) for n, each in enumerate(overrides, 1)]
    keys = tuple(dict.fromkeys(key for each in overrides for key in each))
    shown = short_names(keys)
    distinct: dict[str, PlannedRun] = {}
    warnings = []
    for each, config in zip(overrides, configs, strict=True):
        values = dict(config_lib.flatten(config))
        name = ",".join(f"{shown[key]}={_in_name(values[key])}" for key in each) or "base"
        run = PlannedRun(name, config, values, files.digest(config_lib.lasting(config))[:8])
        first = distinct.setdefault(run.digest, run)
        if first is not run:
            warnings.append(f"{run.name} is identical to {first.name}: they run only once")
    # Different values may look alike as parts of a file's name, or make it too long.
    names = [run.name for run in distinct.values()]
    runs = tuple(
        run
        if names.count(run.name) == 1 and len(run.name) <= _MAX_NAME
        else run._replace(name=f"{run.name[:_MAX_NAME]},{run.digest}")
        for run in distinct.values()
    )
    # Seed by seed, so that what is done at any time compares all settings.
    seeds = list(dict.fromkeys(run.config.seed for run in runs))
    runs = tuple(sorted(runs, key=lambda run: seeds.index(run.config.seed)))
    return SweepPlan(title, keys, runs, (*warnings, *_confounded(runs, keys)))


def search_space(name: str, module: ModuleType, base: ConfigDict) -> Space:
    """The space that `search_NAME` of the config file describes, in values of its keys' types.

    Raises:
      UserError: for an unknown name or key, or values that the key cannot have.
    """
    name = name.removeprefix("search_")
    where = f"search_{name}"
    space: Space = {}
    for key, values in _call(module, "search", name).items():
        if not isinstance(values, Between | OneOf) or not values.values:
            raise UserError(f"{where}: {key} needs Between(...) or OneOf(...), not {values!r}")
        configs = [_override(where, base, {key: value}) for value in values.values]
        options = [dict(config_lib.flatten(config))[key] for config in configs]
        if isinstance(values, OneOf):
            space[key] = OneOf(*options)
            continue
        low, high = options
        if type(low) not in (int, float):
            raise UserError(f"{where}: {key} is no number; give OneOf(...), not {values!r}")
        if not -math.inf < low < high < math.inf or (values.log and low <= 0):
            raise UserError(f"{where}: {key} has an empty range or one without end, {values}")
        space[key] = Between(low, high, values.log)
    return space


def followers(base: ConfigDict, configs: Iterable[ConfigDict], keys: Iterable[str]) -> list[str]:
    """The keys that configs made of `base` by overriding `keys` changed too, by reference."""
    changed = (key for config in configs for key, _, _ in config_lib.differences(base, config))
    return [key for key in dict.fromkeys(changed) if key not in keys]


def _parse(definition: str, base: ConfigDict) -> tuple[str, list[Overrides]]:
    axes: dict[str, list[Overrides]] = {}
    for part in filter(None, map(str.strip, definition.split(";"))):
        key, equals, texts = map(str.strip, part.partition("="))
        if not equals or not texts:
            raise UserError(f"--sweep: {part!r} is not of the form key=value,value")
        if key in axes:
            raise UserError(f"--sweep: {key} stands twice")
        try:
            split = re.split(_COMMA, texts)
            values = [each for text in split for each in _values(base, key, text)]
        except UserError as error:
            raise UserError(f"--sweep: {error}") from None
        axes[key] = axis(key, *values)
    if math.prod(map(len, axes.values())) > _MOST_RUNS:
        raise UserError(f"--sweep: a sweep has at most {_MOST_RUNS:,} runs")
    return "_".join(short_names(axes).values()), list(product(*axes.values()))


def _values(base: ConfigDict, key: str, text: str) -> Sequence[Any]:
    """The values that a text stands for: one, or those of a range such as 0..2."""
    text = text.strip()
    span = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text)
    if not span or type(dict(config_lib.flatten(base)).get(key)) is not int:
        return [config_lib.parse_value(base, key, text)]
    first, last = int(span[1]), int(span[2])
    if first > last:
        raise UserError(f"{key}={text} is an empty range")
    if last - first >= _MOST_RUNS:
        raise UserError(f"{key}={text} has more values than the {_MOST_RUNS:,} runs of a sweep")
    return range(first, last + 1)


def _call(module: ModuleType, kind: str, name: str) -> Any:
    """What the function KIND_NAME of a config file returns: a list of runs, or a space."""
    known = {n.removeprefix(f"{kind}_"): f for n, f in vars(module).items() if callable(f)
             and n.startswith(f"{kind}_")}  # fmt: skip
    if name not in known:
        near = get_close_matches(name, known, 1)
        there = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or 'none'}"
        raise UserError(f"{module.__file__} has no {kind} {name!r}; {there}")
    code = getattr(known[name], "__code__", None)
    where = f"{kind}_{name} of {module.__file__}"
    try:
        made = known[name]()
        if isinstance(made, Iterable) and not isinstance(made, Mapping | str):
            made = list(made)
    except Exception as error:  # whatever the user's function does wrong
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if code and frame.filename == code.co_filename]
        where += f", line {lines[-1]}" if lines else ""
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error
    if not made or not isinstance(made, list if kind == "sweep" else Mapping):
        where += f", line {code.co_firstlineno}" if code else ""
        wanted = "runs" if kind == "sweep" else "{key: Between(...) or OneOf(...)}"
        raise UserError(f"{where}: returns {made!r}, but must return {wanted}")
    return made


def _override(where: str, base: ConfigDict, overrides: Any) -> ConfigDict:
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise UserError(f"{where}: must be a dict of overrides, not {overrides!r}")
    try:
        return config_lib.override(base, overrides)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _in_name(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.+-]", "-", text)


def _confounded(runs: Sequence[PlannedRun], keys: Sequence[str]) -> list[str]:
    """A warning for each group of keys that change from run to run only together."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        values = [run.settings[key] for run in runs]
        distinct = list(dict.fromkeys(values))
        if len(distinct) > 1:
            pattern = tuple(distinct.index(value) for value in values)
            groups.setdefault(pattern, []).append(key)
    return [
        f"{' and '.join(group)} always change together: their effects cannot be told apart"
        for group in groups.values()
        if len(group) > 1
    ]
