"""Configs: from a file and the command line, to and from `config.json`, and how two differ."""

import difflib
import glob
import importlib.util
import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from eanet import cli
from eanet.errors import UserError


def DEFINE_config(
    name: str = "config", flag_values: flags.FlagValues = flags.FLAGS
) -> flags.FlagHolder:
    """Defines `--name=FILE` and its overrides `--name.KEY=VALUE`; an unknown key is an error."""
    about = "A config file; --config.KEY=VALUE overrides a value."
    return config_flags.DEFINE_config_file(name, None, about, flag_values, lock_config=True)


def run(main: Callable[[Sequence[str]], Any]) -> NoReturn:
    """Parses the flags, calls `main` and exits as `eanet.cli.run` does."""
    logging.set_verbosity(logging.WARNING)
    cli.run(lambda: app.run(main, flags_parser=parse))


def parse(arguments: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line, the name of the program first; gives back that name alone.

    Raises:
      UserError: for a flag, a key, a value or a config file that cannot be.
    """
    try:
        arguments = [arguments[0], *flag_values.read_flags_from_files(arguments[1:])]
        _check_config_flags(arguments)
        rest = flag_values(arguments)
    except flags.Error as error:
        raise UserError(f"{error} (--help lists the flags)") from None
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    return rest


def load_module(path: str | Path) -> ModuleType:
    """The Python module of a config file.

    Raises:
      UserError: if there is no such file, or it is no config.
    """
    path = Path(path)
    if not os.path.isfile(path):
        near = difflib.get_close_matches(path.name, glob.glob("*.py", root_dir=path.parent), 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"there is no config file {path}{hint}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a config file ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except Exception as error:
        raise _failed(path, error) from error
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{path} has no function get_config()")
    return module


def load(value: str) -> ConfigDict:
    """The config of `FILE` or `FILE:ARGUMENT`.

    Raises:
      UserError: if there is no such file, or it does not give a config.
    """
    path, _, argument = value.partition(":")
    module = load_module(path)
    try:
        config = module.get_config(argument) if argument else module.get_config()
    except Exception as error:
        raise _failed(Path(path), error) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={value}: get_config() must return a ConfigDict, not {config!r}")
    return config


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a config with their full keys, as in `model.memory_size`.

    A section without keys is a value, so that nothing passes unseen.
    """
    for key, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def check_key(key: str, known: Iterable[str]) -> None:
    """Refuses a key that is not among the known ones, naming the nearest.

    Raises:
      UserError: if it is unknown.
    """
    known = list(known)
    if key in known:
        return
    near = difflib.get_close_matches(key, known, 1) or [
        name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]
    ]
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    raise UserError(f"unknown config key {key!r}; {hint}")


def to_json(config: ConfigDict) -> bytes:
    """The text of `config.json`."""
    return (json.dumps(config.to_dict(), indent=2) + "\n").encode()


def from_json(path: Path) -> ConfigDict:
    """Reads `config.json`; values only, no code, and not whether they are possible.

    Raises:
      UserError: if the file is missing or is not the config of a run.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; is this a run's workdir?") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, it is not JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise UserError(f"{path} is not the config of a run: it has no section 'model'")
    try:
        return ConfigDict(values).lock()
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not the config of a run: {error}") from None


def differences(saved: ConfigDict, given: ConfigDict) -> list[tuple[str, Any, Any]]:
    """The keys in which two configs differ, with both values; None where one lacks the key."""
    old, new = dict(flatten(saved)), dict(flatten(given))
    return [
        (key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def _check_config_flags(arguments: Sequence[str]) -> None:
    """Finds a missing file or an unknown key before ml_collections does, to say it better."""
    config = None
    for index, argument in enumerate(arguments):
        match = re.match(r"--?config(?:=(.*)|$)", argument)
        override = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match:
            value = match[1] if match[1] is not None else "".join(arguments[index + 1 : index + 2])
            config = load(value)
        elif override and config is None:
            raise UserError(f"{argument} stands before --config=FILE; give the file first")
        elif override:
            check_key(override[1], [key for key, _ in flatten(config)])


def _failed(path: Path, error: Exception) -> UserError:
    """Whatever a config file raised, and at which line of it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return UserError(f"{where}: {error} ({type(error).__name__})")
