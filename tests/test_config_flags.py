import pytest
from absl import flags

from eanet import config_flags
from eanet.errors import UserError

TESTING = "--config=configs/testing.py"


def parse(*arguments):
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config(values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    config_flags.parse(["main.py", *arguments], values)
    return holder.value


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--config.model.depth=3"], "model.depth", 3),
        (["--config.model.depth", "3"], "model.depth", 3),
        (["-config.seed", "-3"], "seed", -3),
        (["--config.seed=0x10"], "seed", 16),
        (["--config.seed=1", "--config.seed=2"], "seed", 2),
        (["--config.num_epochs=3"], "num_epochs", 3.0),
        (["--config.optimizer.learning_rate=1e-2"], "optimizer.learning_rate", 0.01),
        (["--config.augment.flip"], "augment.flip", True),
        (["--config.augment.flip", "--workdir=x"], "augment.flip", True),
        (["--config.augment.flip=False"], "augment.flip", False),
        (["--noconfig.augment.flip"], "augment.flip", False),
        (["--config.dataset.data_dir="], "dataset.data_dir", ""),
        (["--config.dataset.name=folder:a=b"], "dataset.name", "folder:a=b"),
    ],
)
def test_a_value_is_overridden_before_and_behind_the_file(arguments, key, value):
    for given in ([TESTING, *arguments], [*arguments, TESTING]):
        config = parse(*given)
        assert (config[key], type(config[key]), config.is_locked) == (value, type(value), True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([TESTING, "--config.model.dept=2"], r"'model\.dept'; did you mean model\.depth"),
        ([TESTING, "--config.model.depth=two"], r"model\.depth=two must be a whole number"),
        ([TESTING, "--config.model.depth=2.0"], r"model\.depth=2\.0 must be a whole number"),
        ([TESTING, "--config.model.depth"], r"model\.depth=true must be a whole number"),
        ([TESTING, "--config.dataset.name"], r"needs a value: --config\.dataset\.name=VALUE"),
        ([TESTING, "--config.augment.flip=maybe"], "augment.flip=maybe must be true or false"),
        ([TESTING, "--noconfig.augment.flip=true"], r"write --config\.augment\.flip=false"),
        (["--config.seed=1", "--workdir=R"], r"^--config\.seed=1 .*--config=FILE is missing"),
        (["--flagfile=/nowhere/flags"], "^Unable to open flagfile.*/nowhere/flags"),
        ([TESTING, "surplus"], "unexpected argument 'surplus'"),
        ([TESTING, "--wrkdir=x"], "wrkdir.*workdir"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, told):
    with pytest.raises(UserError, match=told) as refusal:
        parse(*arguments)
    assert "\n" not in str(refusal.value)


def test_a_file_of_flags_may_hold_the_config_and_its_overrides(tmp_path):
    path = tmp_path / "flags"
    path.write_text(f"{TESTING}\n--config.model.depth=3\n")
    assert parse(f"--flagfile={path}").model.depth == 3
    path.write_text("--config.model.dept=3\n")
    with pytest.raises(UserError, match=r"did you mean model\.depth"):
        parse(TESTING, f"--flagfile={path}")


def test_without_a_config_there_is_none():
    assert parse("--workdir=R") is None


def test_a_reference_follows_an_override(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import testing\n"
        "def get_config():\n"
        "    config = testing.get_config()\n"
        "    with config.ignore_type():\n"
        "        config.model.mlp_dim = config.model.get_ref('embed_dim') * 2\n"
        "    return config\n"
    )
    assert parse(f"--config={path}", "--config.model.embed_dim=24").model.mlp_dim == 48
