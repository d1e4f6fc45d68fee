"""`--config=FILE` and its overrides `--config.KEY=VALUE`, among the flags of a command line."""

import argparse
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict

from eanet import cli
from eanet import config as config_lib
from eanet.errors import UserError

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)
_ABOUT = "A config file; --config.KEY=VALUE overrides a value."


class _ConfigFlag(flags.Flag[Any]):
    """Holds the name of the file until `parse` puts the config in its place."""

    file: Path


# Of main.py and of the measurements, which tests load into one process.
FIGURES = flags.DEFINE_string(
    "figures", "png", "Kinds of files of pictures, as in png,svg,pdf; PNG is always among them."
)


def DEFINE_config(flag_values: flags.FlagValues = flags.FLAGS) -> flags.FlagHolder[Any]:
    """Defines `--config=FILE`, whose value is the config with all overrides in it, or None."""
    flag = _ConfigFlag(flags.ArgumentParser(), None, "config", None, _ABOUT)
    return flags.DEFINE_flag(flag, flag_values)


def config_file() -> Path:
    """The file that `--config` names, without its argument."""
    flag = flags.FLAGS["config"]
    assert isinstance(flag, _ConfigFlag)
    return flag.file


def run(
    main: Callable[[Sequence[str]], Any], before_config: Callable[[], object] = lambda: None
) -> NoReturn:
    """Parses the flags, calls `main` and exits as `eanet.cli.run` does; see `parse`."""
    logging.set_verbosity(logging.WARNING)
    parser = functools.partial(parse, before_config=before_config)
    cli.run(lambda: app.run(main, flags_parser=parser))


def parse(
    arguments: Sequence[str],
    flag_values: flags.FlagValues = flags.FLAGS,
    before_config: Callable[[], object] = lambda: None,
) -> list[str]:
    """Parses the command line, the name of the program first; gives back that name alone.

    When all flags but the config have their values, `before_config` is called: the config is a
    Python file, which may import anything. Raises `UserError` for a flag, a key, a value or a file
    that cannot be.
    """
    try:
        expanded = flag_values.read_flags_from_files(arguments[1:])
        others, overrides = _split(expanded) if "config" in flag_values else (expanded, [])
        rest = flag_values([arguments[0], *others])
    except (flags.Error, OSError, ValueError) as error:
        said = str(error).removeprefix("ERROR:: ")
        raise UserError(f"{said} (--help lists the flags)") from None
    for name in flag_values:
        flag = flag_values[name]
        if flag.present and flag.value in ("", []):
            raise UserError(f"--{name}= is empty: give it a value, or leave it out")
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    before_config()
    if "config" not in flag_values:
        return rest
    flag = flag_values["config"]
    if flag.value is not None:
        assert isinstance(flag, _ConfigFlag)
        flag.file = Path(flag.value.partition(":")[0])
        flag.value = _overridden(flag.value, overrides)
    elif overrides:
        raise UserError(
            f"{overrides[0][0]} changes a value of a config, but --config=FILE is missing"
        )
    return rest


def refuse_unread(
    mode: str, modes: Mapping[str, Sequence[str]], flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Raises `UserError` for a flag that was given and has no effect in this mode.

    For each flag that not all modes read, `modes` has those that do.
    """
    for name, readers in modes.items():
        if flag_values[name].present and mode not in readers:
            wanted = " or ".join(f"--mode={reader}" for reader in readers)
            raise UserError(f"--{name} has no effect in --mode={mode}; it belongs to {wanted}")


class ConfigParser(cli.Parser):
    """A parser of a tool that takes `--config=FILE` and overrides of it."""

    def __init__(self, prog: str, about: str | None):
        super().__init__(prog, about)
        self.add_argument("--config", required=True, metavar="FILE", help=_ABOUT)

    def parse(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict, list[str]]:
        """The options, the config with all overrides in it, and the arguments that gave it.

        Raises `UserError` for an option, a key, a value or a config file that cannot be.
        """
        options, rest = self.parse_known_args(arguments)
        others, overrides = _split(rest)
        if others:
            self.error(f"unexpected argument {others[0]!r}")
        config = _overridden(options.config, overrides)
        return options, config, [f"--config={options.config}", *rest]


def _split(arguments: Sequence[str]) -> tuple[list[str], list[re.Match[str]]]:
    """The other flags, and the overrides as matches of `_OVERRIDE`."""
    others: list[str] = []
    overrides = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        match = _OVERRIDE.fullmatch(argument)
        without_value = match and match[3] is None and not match[1]
        if without_value and left and not re.match(r"--?[A-Za-z]", left[0]):
            match = _OVERRIDE.fullmatch(f"{argument}={left.pop(0)}")
        if match:
            overrides.append(match)
        else:
            others.append(argument)
    return others, overrides


def _overridden(file: str, overrides: Sequence[re.Match[str]]) -> ConfigDict:
    config = config_lib.load(file)
    values: dict[str, Any] = {}
    for match in overrides:
        no, key, text = match.groups()
        if no and text is not None:
            raise UserError(f"{match[0]} has a value too many; write --config.{key}=false")
        values.pop(key, None)  # of several the last one counts, where it stands
        alone = "false" if no else "true"
        values[key] = config_lib.parse_value(config, key, alone if text is None else text)
        if text is None and not isinstance(values[key], bool):
            raise UserError(f"{match[0]} needs a value: --config.{key}=VALUE")
    return config_lib.override(config, values)
