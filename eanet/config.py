"""Configs as values: from a file or a run, made complete, changed, compared; see `config_flags`."""

import copy
import difflib
import glob
import importlib.util
import json
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FieldReference, FrozenConfigDict
from ml_collections.config_dict import RequiredValueError

from eanet import files
from eanet.config_history import ADDED, OPTIONAL
from eanet.errors import UserError
from eanet.version import __version__

# Beside a run's `config.json`: which version wrote it, and its digest.
RECORD = "run.json"

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "whole numbers as in (32, 32), or None",
}
_SWITCH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def load_module(path: str | Path) -> ModuleType:
    """The Python module of a config file; raises `UserError` where it is none."""
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
    """The config of `FILE` or `FILE:ARGUMENT`, with the keys that are newer than the file.

    Its references (`get_ref`) still follow what they refer to, see `override`. Raises `UserError`
    if there is no such file, or it does not give a config.
    """
    path, _, argument = value.partition(":")
    module = load_module(path)
    try:
        config = module.get_config(argument) if argument else module.get_config()
        if isinstance(config, FrozenConfigDict):
            config = config.as_configdict()
        if isinstance(config, ConfigDict):
            config = filled(config)
            _take_numbers(config)
            return config
    except Exception as error:
        raise _failed(Path(path), error) from error
    raise UserError(f"--config={value}: get_config() must return a ConfigDict, not {config!r}")


def filled(config: ConfigDict) -> ConfigDict:
    """A copy in which keys that are newer than the config have the value of `config_history`.

    Lists, as which JSON has tuples, are tuples again.
    """
    config = copy.deepcopy(config)
    for key, value in (item for keys in ADDED.values() for item in keys.items()):
        section: Any = config
        *parents, name = key.split(".")
        for parent in parents:
            if isinstance(section, ConfigDict):
                _add(section, parent, ConfigDict())
                section = section[parent]
        if isinstance(section, ConfigDict):
            _add(section, name, value)
    _take_tuples(config)
    return config


def lasting(config: ConfigDict) -> dict[str, Any]:
    """The values of a config without those that mean "as before the key existed".

    What is computed of them, such as the digest of a run in a sweep, stays the same when the
    program learns a key. Keys of 0.1.0 are always there: they were when digests began.
    """
    config = filled(config)
    values = dict(flatten(config))
    with config.unlocked():
        for version, keys in ADDED.items():
            for key, before in keys.items() if version != "0.1.0" else ():
                if values[key] == before:
                    del config[key]
    return dict(config.to_dict())


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a config with their full keys, as in `model.memory_size`.

    A section without keys is a value, so that nothing passes unseen. A placeholder that nothing
    was put into is None.
    """
    for key, field in config.items(preserve_field_references=True):
        value = _value(field)
        if isinstance(value, ConfigDict) and len(value):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_key(key: str, known: Iterable[str]) -> None:
    """Raises `UserError` for a key that is not among the known ones, naming the nearest."""
    known = list(known)
    if key in known:
        return
    near = difflib.get_close_matches(key, known, 1) or [
        name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]
    ]
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    raise UserError(f"unknown config key {key!r}; {hint}")


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A copy with other values by their full keys, locked; references to a changed value follow it.

    A value is of its key's type; a whole number may stand for a number, a scalar of NumPy for
    the number that it is, and None for a value of `OPTIONAL`.

    Raises:
      UserError: for a key that is unknown, a value of another type, or a value that is missing.
    """
    config = copy.deepcopy(config)
    for key, value in overrides.items():
        kind = _kind(config, key)
        if isinstance(value, np.generic):
            value = value.item()
        if kind is float and type(value) is int:
            value = float(value)
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        if type(value) is not kind and not (key in OPTIONAL and value is None):
            raise UserError(f"{key} must be {_KINDS.get(kind, kind.__name__)}, not {value!r}")
        section, name = _place(config, key)
        with section.ignore_type():  # checked above; that of a reference may be NumPy's
            section[name] = value
    try:
        return config.lock()
    except RequiredValueError:
        missing = [
            key
            for key, value in flatten(config)
            if value is None and isinstance(_field(config, key), FieldReference)
        ]
        raise UserError(
            f"the config leaves open {', '.join(missing)}; give --config.{missing[0]}=VALUE"
        ) from None


def parse_value(config: ConfigDict, key: str, text: str) -> Any:
    """The value that a text stands for; `UserError` for an unknown key or another type's text."""
    kind = _kind(config, key)
    if key in OPTIONAL and text == "None":
        return None
    try:
        if kind is bool:
            return _SWITCH[text.lower()]
        if kind is int:
            return int(text, 0 if text[:2].lower() in ("0x", "0o") else 10)
        if kind in (float, str):
            return kind(text)
        if kind is tuple:
            sizes = text[1:-1] if (text[:1], text[-1:]) in (("(", ")"), ("[", "]")) else text
            return tuple(int(size) for size in sizes.removesuffix(",").split(","))
    except (KeyError, ValueError):
        raise UserError(f"{key}={text} must be {_KINDS[kind]}") from None
    raise UserError(f"{key} cannot be given as a text; change the config file")


def differences(saved: ConfigDict, given: ConfigDict) -> list[tuple[str, Any, Any]]:
    """The keys in which two configs differ, with both values; None where one lacks the key."""
    old, new = dict(flatten(saved)), dict(flatten(given))
    return [
        (key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def to_json(config: ConfigDict) -> bytes:
    """The text of `config.json`."""
    return (json.dumps(config.to_dict(), indent=2) + "\n").encode()


def write(workdir: Path, config: ConfigDict) -> None:
    """Writes `config.json` of a run, and beside it which version wrote it and its digest.

    Raises `OSError` if they cannot be written; then there is no `config.json`.
    """
    record = {"version": __version__, "config_sha256": files.digest(config.to_dict())}
    files.write_atomically(workdir / RECORD, files.strict_json(record, indent=2))
    files.write_atomically(workdir / "config.json", to_json(config))


def rewrite(workdir: Path, config: ConfigDict, step: int) -> None:
    """Gives a run another config from this step on; `run.json` keeps what was changed and when.

    Raises:
      UserError: what is there is damaged.
      OSError: it cannot be written; the old config stands.
    """
    path = workdir / "config.json"
    changes = [
        {"step": step, "key": key, "before": before, "after": after}
        for key, before, after in differences(from_json(path), filled(config))
    ]
    record = _record(path)
    digest = files.digest(config.to_dict())
    if "config_sha256" in record:  # until the config is there too, either one is right
        record["config_sha256_before"] = record["config_sha256"]
    record |= {"config_sha256": digest, "changes": [*record.get("changes", []), *changes]}
    files.write_atomically(workdir / RECORD, files.strict_json(record, indent=2))
    files.write_atomically(path, to_json(config))


def from_json(path: Path) -> ConfigDict:
    """Reads `config.json` of a run, with the keys that are newer; its values may be impossible.

    Raises:
      UserError: if the file is missing, is not the config of a run, or not what was written.
    """
    try:
        values = json.loads(files.read_bytes(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; is this a run's workdir?") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, it is not JSON: {error}") from None
    config = from_values(values, path)
    record = _record(path)
    right = (record.get("config_sha256"), record.get("config_sha256_before"))
    if right[0] is not None and files.digest(values) not in right:
        raise UserError(
            f"{path} is not what was written: it is damaged, or a person has changed it; if "
            f"that was meant, remove {path.with_name(RECORD)} and it is taken as it stands"
        )
    return config


def from_values(values: Any, source: str | Path) -> ConfigDict:
    """The config that JSON of a source stands for, as `from_json` gives it; raises as that does."""
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise UserError(f"{source} is not the config of a run: it has no section 'model'")
    try:
        return filled(ConfigDict(values)).lock()
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{source} is not the config of a run: {error}") from None


def written_by(path: Path) -> str:
    """Which version of the program wrote this `config.json`, and which one this is."""
    version = _record(path).get("version", "before 0.2.0")
    if version == __version__:
        return "written by this version"
    return f"written by version {version}, this is {__version__}"


def _record(path: Path) -> dict[str, Any]:
    """What stands beside a `config.json`; empty in a run of older versions."""
    record = path.with_name(RECORD)
    return files.read_record(record, f"remove it if {path.name} beside it is right") or {}


def _kind(config: ConfigDict, key: str) -> type:
    """The type of the value of a key, also of a placeholder that nothing was put into."""
    values = dict(flatten(config))
    check_key(key, values)
    if key in OPTIONAL:
        return OPTIONAL[key]
    if values[key] is not None:
        return type(values[key])
    field = _field(config, key)
    return field.get_type() if isinstance(field, FieldReference) else type(field)


def _field(config: ConfigDict, key: str) -> Any:
    """What stands at a key: a value, or a reference to one."""
    section, name = _place(config, key)
    return dict(section.items(preserve_field_references=True))[name]


def _place(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
    """The section in which a key stands, and its name there."""
    section, _, name = key.rpartition(".")
    return (config[section] if section else config), name


def _value(field: Any) -> Any:
    """What a field holds, directly or by reference."""
    try:
        return field.get() if isinstance(field, FieldReference) else field
    except RequiredValueError:
        return None


def _add(section: ConfigDict, name: str, value: Any) -> None:
    if name not in section:
        with section.unlocked():
            section[name] = value


def _take_tuples(section: ConfigDict) -> None:
    for key, value in list(section.items(preserve_field_references=True)):
        if isinstance(value, ConfigDict):
            _take_tuples(value)
        elif isinstance(value, list):
            with section.unlocked():
                del section[key]  # which would make a list of the tuple
                section[key] = tuple(value)


def _take_numbers(section: ConfigDict) -> None:
    """Takes scalars of NumPy as the numbers that they are; references still follow."""
    for key, field in list(section.items(preserve_field_references=True)):
        value = _value(field)
        if isinstance(value, ConfigDict):
            _take_numbers(value)
        if not isinstance(value, np.generic):
            continue
        number = value.item()
        if isinstance(field, FieldReference):
            if field._value is value and not field._ops:
                field.set(number, type_safe=False)  # in place, for those that refer to it
                continue
            number = field.to_float() if isinstance(number, float) else field.to_int()
        with section.unlocked():
            del section[key]
            section[key] = number


def _failed(path: Path, error: Exception) -> UserError:
    """Whatever a config file raised, and at which line of it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return UserError(f"{where}: {error} ({type(error).__name__})")
