"""The directory of a run: made once, claimed by one config, never overwritten by another."""

import os
from pathlib import Path

from ml_collections import ConfigDict

from eanet import config as config_lib
from eanet.errors import UserError
from eanet.run_log import write_atomically

_SHOWN_DIFFERENCES = 6


def claim(workdir: Path, config: ConfigDict) -> None:
    """Makes the workdir with the config in it, or checks that it belongs to this config.

    Raises:
      UserError: if the workdir belongs to another config or cannot be written.
    """
    path = workdir / "config.json"
    if not os.path.exists(path):
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            if (workdir / "checkpoints").exists():
                raise UserError(
                    f"{workdir} holds checkpoints but no config.json, so it is unknown what they "
                    "belong to; choose another --workdir"
                )
            write_atomically(path, config_lib.to_json(config))
        except OSError as error:
            raise UserError(
                f"cannot write to the workdir {workdir}: {error.strerror}; choose another --workdir"
            ) from None
        return
    differences = config_lib.differences(config_lib.from_json(path), config)
    if differences:
        shown = [f"{key} is {old!r} there, {new!r} here" for key, old, new in differences]
        more = len(shown) - _SHOWN_DIFFERENCES
        rest = f" and {more} more" if more > 0 else ""
        raise UserError(
            f"{workdir} belongs to a run with another config: "
            f"{'; '.join(shown[:_SHOWN_DIFFERENCES])}{rest}. Nothing was changed; choose another "
            "--workdir, or give the saved values to go on with that run"
        )
