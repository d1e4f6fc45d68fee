"""The model cards of runs that differ in the seed alone, which name what they came to together."""

from pathlib import Path

from eanet.errors import UserError
from eanet.sweeps.statistics import Setting


def write_cards(directory: Path, setting: Setting) -> None:
    """Writes the cards of a setting's runs anew, once each can know of all.

    Args:
      directory: of the sweep.
      setting: of it; with fewer runs than two there is nothing new to tell.

    Raises:
      UserError: a record is damaged, or a card cannot be written.
    """
    tested = [run for run in setting.done if run.test.get("accuracy") is not None]
    if len(tested) < 2:
        return
    from eanet.inference.evaluate import write_card  # imports JAX, which a report can do without
    from eanet.training import config_schema

    among = [directory / run.name for run in tested]
    for run in tested:
        workdir = directory / run.name
        try:
            config = config_schema.read(workdir / "config.json")
        except UserError:
            continue  # of parts that this process does not know; an evaluation writes its card
        write_card(workdir, config, among)
