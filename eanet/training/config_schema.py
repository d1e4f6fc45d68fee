"""What every value of a config may be; refuses the impossible before anything is loaded or built.

Each part of the program says what it takes; what depends on the data, such as the size of a batch,
that part checks itself when it sees them.
"""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet import precision
from eanet import rules as rules_lib
from eanet.augment.pipeline import augmentation_rules
from eanet.config_history import REQUIRED
from eanet.data import load
from eanet.errors import UserError
from eanet.models import eanet
from eanet.prng import IMPLEMENTATIONS
from eanet.rules import Choice, Number, Rule, Switch, Text
from eanet.training import loss, optimizer, plan


def all_rules() -> dict[str, Rule]:
    """The rule of every key; those of what stands in a table come and go with it."""
    sections: dict[str, Mapping[str, Rule]] = {
        "dataset": load.RULES,
        "augment": augmentation_rules(),
        "model": eanet.model_rules(),
        "optimizer": optimizer.RULES,
    }
    return {
        "seed": Number(0, 2**32 - 1, whole=True),
        "init_from": Text(),
        "microbatch_size": Number(0, 2**31 - 1, whole=True),
        "random_bits": Choice(*IMPLEMENTATIONS),
        "checkpoint_every_minutes": Number(0, 1_000_000),
        "on_nonfinite": Choice("stop", "skip"),
        "nonfinite_limit": Number(0, 2**31 - 1, whole=True),
        "layer_statistics": Switch(),
        **precision.RULES,
        **plan.RULES,
        **loss.RULES,
        **{f"{name}.{key}": sections[name][key] for name in sections for key in sections[name]},
    }


def check(config: ConfigDict) -> None:
    """Refuses a config with a key that is missing or unknown, or with an impossible value.

    Raises:
      UserError: naming the key, its value and what is allowed.
    """
    given, rules = dict(config_lib.flatten(config)), all_rules()
    for key, rule in rules.items():
        if key in REQUIRED and key not in given:
            raise UserError(f"the config has no {key}, which must be {rule}")
    for key in given:
        config_lib.check_key(key, rules)
    rules_lib.check(rules, given)


def refuse_hopeless(config: ConfigDict) -> None:
    """Refuses to train with possible values that can only diverge together.

    Raises:
      UserError: saying why, and what to change.
    """
    optimizer = config.optimizer
    # In float16 the square of a gradient below 2e-4 is zero, and epsilon alone is what divides it.
    if (
        config.model.param_dtype == "float16"
        and optimizer.name in ("adam", "adamw")
        and optimizer.epsilon < 1e-5
    ):
        raise UserError(
            f"with model.param_dtype=float16, {optimizer.name} divides small gradients by "
            f"optimizer.epsilon={optimizer.epsilon:g} and diverges; set optimizer.epsilon=1e-4, "
            "or model.param_dtype=bfloat16"
        )


def read(path: Path) -> ConfigDict:
    """The config in the `config.json` of a run, whatever version of the program wrote it.

    Raises:
      UserError: if the file is missing, or is not the config of a run.
    """
    config = config_lib.from_json(path)
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{path} ({config_lib.written_by(path)}): {error}") from None
    return config
