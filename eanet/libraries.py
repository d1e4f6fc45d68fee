"""Libraries that only some tools need, imported when they need them."""

from importlib.util import find_spec

from eanet.errors import UserError


def require(library: str, requirements: str) -> None:
    """Raises `UserError` where a library is missing, with the requirements that have it."""
    try:
        found = find_spec(library)
    except ValueError:  # something of this name that is no library
        found = None
    if found is None:
        raise UserError(f"{library} is not installed here: pip install -r {requirements}")
