"""Puts a trained run at the Hugging Face Hub: model card, weights, curves and pictures.

What is sent is shown first; --dry_run sends nothing. eanet.load("hf:USER/NAME"), and --mode=eval
and --mode=predict with --workdir=hf:USER/NAME, take the model from there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eanet import config as config_lib
from eanet import files, hub
from eanet.cli import Parser
from eanet.display.console import Console
from eanet.display.model_card import model_card, pictures
from eanet.errors import UserError
from eanet.inference import weights
from eanet.inference.load import load
from eanet.inference.model import Model
from eanet.models.attentions import attention_class
from eanet.workdir import model_record

_EVENTS = "tensorboard"
# The settings beside them are left out: they may say where the data lay.
_SCALARS = f"{_EVENTS}/events.out.tfevents.[0-9]*"


def main(arguments: list[str], prog: str) -> None:
    """The command `push`."""
    parser = Parser(prog, __doc__)
    parser.add_argument("run", metavar="RUN", help="directory of the run")
    parser.add_argument("repository", metavar="USER/NAME", help="made where it is not there")
    parser.add_argument("--private", action="store_true", help="seen by you alone")
    parser.add_argument("--dry_run", action="store_true", help="only show what would be sent")
    options = parser.parse_args(arguments)
    hub.check_name(options.repository)
    if not options.dry_run:
        hub.check_token()
    address = hub.Address(options.repository)
    run = files.local_path(options.run)
    if not run.is_dir():
        raise UserError(f"{run} is no directory of a run")
    console = Console()
    content = _content(run, load(run, log=console.warn), options.repository)
    rows = [(name, f"{len(data):,}") for name, data in content.items()]
    console.table(f"To {address}{', private' * options.private}", ("file", "bytes"), rows)
    if options.dry_run:
        console.note("Nothing is sent.")
        return
    with hub.refusals(address):
        console.note(_send(address, content, options.private))
    console.note(f'eanet.load("{address}") takes it from there.')


def _content(run: Path, model: Model, repository: str) -> dict[str, bytes]:
    """The files by name, with no path of this machine in them."""
    options = model.config.model
    about = attention_class(options.attention, options.implementation).about
    values = dict(config_lib.flatten(model.config))
    described = weights.description(model)
    record = files.sealed(described["model"])
    events = sorted(str(path.relative_to(run)) for path in run.glob(_SCALARS))
    return {
        "README.md": model_card(run, values, about, repository, model.step),
        "config.json": files.strict_json(described["config"], indent=2),
        model_record.NAME: files.strict_json(record, indent=2),
        hub.WEIGHTS: weights.to_bytes(model),
        **{name: _read(run / name) for name in (*pictures(run, model.step), *events)},
    }


def _read(path: Path) -> bytes:
    try:
        return files.read_bytes(path, follow=False)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _send(address: hub.Address, content: Mapping[str, bytes], private: bool) -> str:
    """Sends the files as one commit, and says which."""
    library = hub.library()
    api = library.HfApi()
    there = _there(api, address, private)
    # TensorBoard would take event files of another run for this one's.
    stale = [name for name in there if name.startswith(f"{_EVENTS}/") and name not in content]
    operations: list[Any] = [library.CommitOperationDelete(name) for name in stale]
    operations += [library.CommitOperationAdd(*item) for item in content.items()]
    commit = api.create_commit(
        address.repository, operations, commit_message="Put a trained EANet here"
    )
    removed = f", with {len(stale)} older event files removed" if stale else ""
    return f"Sent to {commit.repo_url}, commit {commit.oid}{removed}"


def _there(api: Any, address: hub.Address, private: bool) -> list[str]:
    """The names of the files at the hub; the repository is made where it is missing."""
    try:
        info = api.model_info(address.repository)
    except hub.library().errors.RepositoryNotFoundError:
        api.create_repo(address.repository, private=private or None)
        return []
    if private and not info.private:
        raise UserError(
            f"{address} is there and public, and --private does not change that; make it private "
            "in its settings, or take another name"
        )
    return [file.rfilename for file in info.siblings or ()]
