"""What every value of a config may be; refuses the impossible before anything is loaded or built.

Each part of the program says what it takes (`RULES`); what depends on the data, such as the size of
a batch, that part checks itself when it sees them.
"""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from eanet import augment, data, model, optimizer, schedule, values
from eanet import config as config_lib
from eanet.errors import UserError
from eanet.random_bits import IMPLEMENTATIONS
from eanet.values import Choice, Number, Switch


def _section(name: str, rules: Mapping[str, values.Rule]) -> dict[str, values.Rule]:
    return {f"{name}.{key}": rule for key, rule in rules.items()}


RULES: dict[str, values.Rule] = {
    "seed": Number(0, 2**32 - 1, whole=True),
    "microbatch_size": Number(0, 2**31 - 1, whole=True),
    "label_smoothing": Number(0, 1, below=True),
    "random_bits": Choice(*IMPLEMENTATIONS),
    "checkpoint_every_minutes": Number(0, 1_000_000),
    "on_nonfinite": Choice("stop", "skip"),
    "nonfinite_limit": Number(0, 2**31 - 1, whole=True),
    "layer_statistics": Switch(),
    **schedule.RULES,
    **_section("dataset", data.RULES),
    **_section("augment", augment.RULES),
    **_section("model", model.RULES),
    **_section("optimizer", optimizer.RULES),
}


def check(config: ConfigDict) -> None:
    """Refuses a config with a key that is missing or unknown, or with an impossible value.

    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    given = dict(config_lib.flatten(config))
    for key in RULES:
        if key not in given:
            raise UserError(f"the config has no {key}, which must be {RULES[key]}")
    for key in given:
        config_lib.check_key(key, RULES)
    values.check(RULES, given)


def read(path: Path) -> ConfigDict:
    """The config in the `config.json` of a run.

    Raises:
      UserError: if the file is missing, or is not the config of a run.
    """
    config = config_lib.from_json(path)
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{path} is damaged or of another version: {error}") from None
    return config
