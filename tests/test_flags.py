"""Every flag does something in the mode it is given in, or is refused there."""

import itertools

import pytest
from absl import flags

import main
from eanet import config_flags
from eanet.errors import UserError

VALUES = {
    "config": "configs/testing.py",
    "dataset": "digits",
    "data_dir": "data",
    "checkpoint": "latest",
    "extend_to": "9",
    "distributed": "true",
    "coordinator": "localhost:1234",
    "num_processes": "2",
    "process_id": "1",
    "heartbeat_timeout": "9",
    "figures": "png,pdf",
    "images": "images",
    "top": "3",
    "out": "table.csv",
    "resize": "crop",
    "strict": "true",
    "stop_at_eof": "true",
    "split": "val",
    "sweep": "seed=0..2",
    "seeds": "3",
    "dry_run": "true",
    "workers": "2",
    "storage": "sqlite:///x.db",
    "search": "tpe",
    "trials": "3",
}
EVERYWHERE = {"workdir", "mode", "host_setup", "deterministic"}
ALL_MODES = ("train", "eval", "predict", "replay", "sweep")


def parsed(*arguments):
    """The flags of main.py as these arguments set them."""
    values = flags.FlagValues()
    config_flags.DEFINE_config(values)
    flags.DEFINE_enum("mode", "train", ALL_MODES, "", values)
    for name in VALUES.keys() - {"config"}:
        flags.DEFINE_string(name, None, "", values)
    config_flags.parse(["main.py", *arguments], values)
    return values


def test_every_flag_of_the_program_is_read_somewhere():
    own = {value.name for value in vars(main).values() if isinstance(value, flags.FlagHolder)}
    assert own == main.MODES.keys() | EVERYWHERE


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(VALUES, ALL_MODES)))
def test_a_flag_that_its_mode_does_not_read_is_refused(name, mode):
    values = parsed(f"--mode={mode}", f"--{name}={VALUES[name]}")
    if mode in main.MODES[name]:
        config_flags.refuse_unread(mode, main.MODES, values)
        return
    with pytest.raises(UserError, match=rf"--{name} has no effect in --mode={mode}") as refused:
        config_flags.refuse_unread(mode, main.MODES, values)
    assert all(f"--mode={reader}" in str(refused.value) for reader in main.MODES[name])


@pytest.mark.parametrize("name", VALUES)
def test_an_empty_value_is_refused(name):
    with pytest.raises(UserError, match=f"--{name}= is empty: give it a value"):
        parsed(f"--{name}=")


def test_what_was_not_given_is_not_refused():
    for mode in ALL_MODES:
        config_flags.refuse_unread(mode, main.MODES, parsed(f"--mode={mode}"))
