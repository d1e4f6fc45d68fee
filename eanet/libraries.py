"""Libraries that only one tool needs, imported when it needs them."""

import importlib
from typing import Any

from eanet.errors import UserError


def need(name: str, requirements: str) -> Any:
    """The module of this name.

    Raises:
      UserError: it is not installed; the message names the file of requirements that has it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{name.partition('.')[0]} is not installed here: pip install -r {requirements}"
        ) from None
