"""Models at the Hugging Face Hub: their addresses, their files, and one line for what goes wrong.

An address is `hf:USER/NAME`, or `hf:USER/NAME@REVISION` for a branch, a tag or a commit.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from eanet import libraries
from eanet.errors import UserError

PREFIX = "hf:"
WEIGHTS = "model.safetensors"  # all that a model needs, see `eanet.inference.weights`
REQUIREMENTS = "requirements-hub.txt"

_REVISION = r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*"
_LOG_IN = "set HF_TOKEN to one of https://huggingface.co/settings/tokens, or run: hf auth login"


class Address(NamedTuple):
    """Where a model is at the hub."""

    repository: str  # USER/NAME
    revision: str | None = None  # None for the newest

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def library() -> Any:
    """The module `huggingface_hub`; `UserError` where it is not installed."""
    for name in ("safetensors", "huggingface_hub"):
        libraries.require(name, REQUIREMENTS)
    import huggingface_hub.utils

    return huggingface_hub


def is_address(place: object) -> bool:
    """Whether a place as a user names it is at the hub, and not a directory."""
    return str(place).startswith(PREFIX)


def parse(text: str) -> Address:
    """The address that a text stands for; `UserError` for one that cannot be."""
    repository, at, revision = text.removeprefix(PREFIX).partition("@")
    check_name(repository)
    if at and (not re.fullmatch(_REVISION, revision) or ".." in revision):
        raise UserError(f"{text}: {revision!r} is no branch, tag or commit")
    return Address(repository, revision or None)


def check_name(repository: str) -> None:
    """Raises `UserError` for a name that the hub would refuse."""
    hub = library()
    if not re.fullmatch("[^/]+/[^/]+", repository):
        raise UserError(f"{repository!r} is no name of a model at the hub, which is USER/NAME")
    try:
        hub.utils.validate_repo_id(repository)
    except hub.errors.HFValidationError as error:
        raise UserError(f"the hub does not take the name {repository!r}: {error}") from None


def check_token() -> None:
    """Raises `UserError` where the user has no token, without which nothing can be sent."""
    if not library().get_token():
        raise UserError(f"there is no token for the hub; {_LOG_IN}")


def download(address: Address) -> Path:
    """The file of weights of a model, from the cache of the hub where it is there already.

    Nothing else is fetched. Where the hub cannot be reached, it is the file as last seen.

    Raises:
      UserError: there is none, or it cannot be had.
    """
    hub = library()
    with refusals(address):
        folder = hub.snapshot_download(
            address.repository, revision=address.revision, allow_patterns=[WEIGHTS]
        )
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise UserError(f"{address} has no {WEIGHTS}: `python -m eanet push` did not make it")
    return path


@contextlib.contextmanager
def refusals(address: Address) -> Iterator[None]:
    """Turns what `huggingface_hub` raises into a `UserError`; it prints nothing meanwhile."""
    hub = library()
    errors = hub.errors
    loud = logging.getLogger("huggingface_hub").level
    hub.utils.logging.set_verbosity_error()
    try:
        with hub.utils.disable_progress_bars():
            yield
    except errors.GatedRepoError:
        raise UserError(f"{address} is gated: ask for access on its page") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{address} is not there, or is private: {_LOG_IN}") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{address}: the model has no such branch, tag or commit") from None
    except errors.HfHubHTTPError as error:
        raise UserError(f"{address}: {_refusal(error)}") from None
    except errors.LocalEntryNotFoundError as error:
        cause = error.__cause__
        why = _refusal(cause) if isinstance(cause, errors.HfHubHTTPError) else _silence(cause)
        raise UserError(f"{address}: {why}, and it is not in the cache here") from None
    except errors.HTTPError as error:
        raise UserError(f"{address}: {_silence(error)}") from None
    except (OSError, RuntimeError, ValueError) as error:  # of the disk, of hf_xet, of the answer
        raise UserError(f"{address}: {error}") from None
    finally:
        hub.utils.logging.set_verbosity(loud)


def _silence(error: Any) -> str:
    return f"the hub at {library().constants.ENDPOINT} cannot be reached ({error})"


def _refusal(error: Any) -> str:
    """What the hub said, and what to do."""
    code, said = error.response.status_code, error.server_message or error.response.reason_phrase
    advice = {401: _LOG_IN, 403: "give USER/NAME of your own, and a token that may write"}
    return f"the hub refuses ({code} {said})" + (f"; {advice[code]}" if code in advice else "")
