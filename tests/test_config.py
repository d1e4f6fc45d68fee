import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict, FieldReference, FrozenConfigDict, config_dict

from configs import eanet_digits, testing
from eanet import config as config_lib
from eanet.config_history import ADDED, FIRST
from eanet.errors import UserError
from eanet.training import config_schema
from eanet.version import __version__

ROOT = Path(__file__).resolve().parents[1]
OLDEST = ROOT / "docs/cifar100_10epochs/config.json"

HEADER = "from ml_collections import ConfigDict\ndef get_config(*words):\n"


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("    return unknown", ["unknown", "NameError", "mine.py, line 3"]),
        ("    return {'a': 1}", ["ConfigDict", "{'a': 1}"]),
        ("    return ConfigDict().locked.deep", ["AttributeError", "line 3"]),
        ("    return", ["ConfigDict", "None"]),
        ("  return (", ["mine.py, line 3"]),
        ("    pass\nimport nowhere_to_be_found", ["nowhere_to_be_found", "line 4"]),
        ("    pass\nget_config = 3", ["no function get_config()"]),
    ],
)
def test_a_config_file_that_fails_is_one_line(tmp_path, body, parts):
    path = tmp_path / "mine.py"
    path.write_text(HEADER + body)
    with pytest.raises(UserError) as refusal:
        config_lib.load(str(path))
    assert all(part in str(refusal.value) for part in parts), refusal.value


def test_an_error_is_one_line_of_printable_text():
    error = UserError("two\nlines,  \x1b[31mred\x1b[0m, \udcff and " + 5000 * "x" + " the end")
    message = str(error)
    assert message.isprintable() and len(message) < 1010 and message.endswith("the end")
    assert message.startswith(r"two lines, \x1b[31mred\x1b[0m, \udcff and")


@pytest.mark.parametrize("section", [None, "model"])
def test_an_empty_section_is_an_unknown_key(section):
    config = eanet_digits.get_config().unlock()
    (config[section] if section else config).new = {}
    with pytest.raises(UserError, match=r"unknown config key '(model\.)?new'"):
        config_schema.check(config)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("key", ["num_epochs", "eval_every_epochs", "checkpoint_every_epochs"])
def test_impossible_durations(key, value):
    config = testing.get_config()
    config[key] = value
    with pytest.raises(UserError, match=f"{key}={value} must be a number above 0"):
        config_schema.check(config)


# Configs that are older than the program.


def added():
    return {key: value for keys in ADDED.values() for key, value in keys.items()}


def test_every_key_is_of_the_oldest_run_or_says_what_was_before_it():
    oldest = {key for key, _ in config_lib.flatten(ConfigDict(json.loads(OLDEST.read_bytes())))}
    assert oldest == FIRST
    keys = {key for key, _ in config_lib.flatten(testing.get_config())}
    assert keys == FIRST | added().keys(), "write a new key into eanet/config_history.py"
    assert not FIRST & added().keys()


@pytest.mark.parametrize("name", ["cifar100_10epochs", "cifar100_clip"])
def test_a_run_of_the_first_version_is_read_with_what_was_before_its_keys(name):
    config = config_schema.read(ROOT / "docs" / name / "config.json")
    flat = dict(config_lib.flatten(config))
    assert {key: flat[key] for key in added()} == added()
    assert config.num_epochs == {"cifar100_10epochs": 10.0, "cifar100_clip": 3.0}[name]


@pytest.mark.parametrize("key", ["seed", "augment.flip", "optimizer.ema_decay"])
def test_a_key_that_was_always_there_is_missed(tmp_path, key):
    values = ConfigDict(json.loads(OLDEST.read_bytes()))
    del values[key]
    path = tmp_path / "config.json"
    path.write_bytes(config_lib.to_json(values))
    with pytest.raises(UserError, match=rf"\(written by version before .* has no {key}, which"):
        config_schema.read(path)


def test_an_unknown_key_says_which_version_wrote_it(tmp_path, monkeypatch):
    newer = testing.get_config()
    newer.model.unheard_of = 3
    monkeypatch.setattr(config_lib, "__version__", "9.8.7")
    config_lib.write(tmp_path, newer)
    monkeypatch.undo()
    with pytest.raises(UserError) as refusal:
        config_schema.read(tmp_path / "config.json")
    for part in ("config.json", "version 9.8.7", f"this is {__version__}", "model.unheard_of"):
        assert part in str(refusal.value)


def test_a_users_file_that_is_older_than_a_key_is_filled_too(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{HEADER}    return ConfigDict({json.loads(OLDEST.read_bytes())!r}).lock()")
    config = config_lib.load(str(path))
    config_schema.check(config)
    changed = config_lib.override(config, {"model.implementation": "plain"})
    assert (config.model.implementation, changed.model.implementation) == ("fast", "plain")


def test_what_is_computed_of_a_config_lasts_when_keys_are_added(monkeypatch):
    config = testing.get_config()
    before = config_lib.lasting(config)
    monkeypatch.setitem(ADDED, "9.0.0", {"model.new": 5, "atlas.size": 3})
    assert config_lib.filled(config).atlas.size == 3
    with_keys = config_lib.filled(config)
    assert config_lib.lasting(with_keys) == config_lib.lasting(config)
    assert json.dumps(config_lib.lasting(config)["model"]) == json.dumps(before["model"])
    with_keys.model.new = 6
    assert config_lib.lasting(with_keys)["model"]["new"] == 6


# A run's `config.json`.


def test_a_config_is_read_as_it_was_written(tmp_path):
    config = testing.get_config()
    config_lib.write(tmp_path, config)
    assert config_lib.from_json(tmp_path / "config.json").to_dict() == config.to_dict()
    assert json.loads((tmp_path / "config.json").read_text()) == config.to_dict()


def test_no_flipped_bit_gives_another_config(tmp_path):
    config = testing.get_config()
    config_lib.write(tmp_path, config)
    path = tmp_path / "config.json"
    text = path.read_bytes()
    refused = 0
    bits = range(0, 8 * len(text), 29)  # every one of a byte somewhere
    for bit in bits:
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert config_lib.from_json(path).to_dict() == config.to_dict()
        except UserError:
            refused += 1
    assert refused > 0.8 * len(bits)


def test_a_change_of_it_is_a_deliberate_act(tmp_path):
    config_lib.write(tmp_path, testing.get_config())
    path = tmp_path / "config.json"
    text = path.read_bytes()
    assert b'"seed": 0' in text
    path.write_bytes(text.replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(
        UserError, match=r"config\.json is not what was written.* remove .*run\.json"
    ):
        config_lib.from_json(path)
    (tmp_path / "run.json").unlink()
    assert config_lib.from_json(path).seed == 1


def test_a_damaged_record_beside_it_is_one_line(tmp_path):
    config_lib.write(tmp_path, testing.get_config())
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*run\.json.* remove it if config\.json"):
        config_lib.from_json(tmp_path / "config.json")


# Overrides.


@pytest.fixture
def derived():
    """The config for tests, whose MLP is twice as wide as a token."""
    config = testing.get_config()
    with config.ignore_type():
        config.model.mlp_dim = config.model.get_ref("embed_dim") * 2
        config.model.head_dim = config.model.get_ref("embed_dim")
    return config


def test_a_reference_follows_what_it_refers_to(derived):
    changed = config_lib.override(derived, {"model.embed_dim": 24})
    assert (changed.model.embed_dim, changed.model.mlp_dim, changed.model.head_dim) == (24, 48, 24)
    again = config_lib.override(changed, {"model.embed_dim": 8})
    assert (again.model.mlp_dim, changed.model.mlp_dim, derived.model.mlp_dim) == (16, 48, 32)


@pytest.mark.parametrize("order", [1, -1])
def test_a_derived_value_can_be_replaced(derived, order):
    overrides = dict([("model.embed_dim", 24), ("model.mlp_dim", 7)][::order])
    changed = config_lib.override(derived, overrides)
    assert (changed.model.embed_dim, changed.model.mlp_dim) == (24, 7)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"model.dept": 3}, r"unknown config key 'model\.dept'; did you mean model\.depth"),
        ({"model": 3}, "unknown config key 'model'"),
        ({"model.depth": 3.0}, r"model\.depth must be a whole number, not 3\.0"),
        ({"model.depth": True}, r"model\.depth must be a whole number, not True"),
        ({"augment.flip": 1}, r"augment\.flip must be true or false, not 1"),
        ({"model.norm": 1}, r"model\.norm must be a text, not 1"),
        ({"num_epochs": None}, "num_epochs must be a number, not None"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(overrides, told):
    with pytest.raises(UserError, match=told):
        config_lib.override(testing.get_config(), overrides)


def test_numbers_of_numpy_are_taken_as_the_numbers_that_they_are():
    overrides = {
        "optimizer.learning_rate": np.float32(0.5),
        "num_epochs": np.int64(3),
        "model.depth": np.int32(4),
        "augment.flip": np.bool_(False),
    }
    changed = config_lib.override(testing.get_config(), overrides)
    taken = [changed[key] for key in overrides]
    assert taken == [0.5, 3.0, 4, False]
    assert [type(value) for value in taken] == [float, float, int, bool]


# What a config file may give.


def load(tmp_path, monkeypatch, config):
    path = tmp_path / "mine.py"
    path.write_text("import given\ndef get_config():\n    return given.config")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "given.py").write_text("")
    import given

    monkeypatch.setattr(given, "config", config, raising=False)
    return config_lib.load(str(path))


def test_a_config_file_may_hold_numbers_of_numpy(tmp_path, monkeypatch):
    config = testing.get_config()
    width = FieldReference(np.int64(16))
    with config.ignore_type():
        config.optimizer.learning_rate = np.float32(0.5)
        config.seed = np.int64(7)
        config.augment.flip = np.bool_(True)
        config.model.embed_dim = width
        config.model.mlp_dim = width * 2
        config.model.memory_size = width * np.int64(2)
    loaded = load(tmp_path, monkeypatch, config.lock())
    config_schema.check(loaded)
    assert json.loads(config_lib.to_json(loaded))["optimizer"]["learning_rate"] == 0.5
    assert type(loaded.seed) is int and loaded.augment.flip is True
    changed = config_lib.override(loaded, {"seed": 8, "model.embed_dim": 24})
    assert changed.seed == 8
    for key, value in {"embed_dim": 24, "mlp_dim": 48, "memory_size": 48}.items():
        assert (changed.model[key], type(changed.model[key])) == (value, int), key


def test_a_frozen_config_can_be_overridden(tmp_path, monkeypatch):
    loaded = load(tmp_path, monkeypatch, FrozenConfigDict(testing.get_config()))
    assert config_lib.override(loaded, {"model.depth": 3}).model.depth == 3


def test_a_placeholder_is_filled_or_named(tmp_path, monkeypatch):
    config = testing.get_config()
    with config.ignore_type():
        del config.seed, config.num_epochs
        config.seed = config_dict.required_placeholder(int)
        config.num_epochs = config_dict.placeholder(float)
    loaded = load(tmp_path, monkeypatch, config)
    with pytest.raises(UserError, match=r"leaves open .*seed.*--config\.\w+=VALUE"):
        config_lib.override(loaded, {"num_epochs": 1.0})
    filled = config_lib.override(loaded, {"seed": 4})
    with pytest.raises(UserError, match="num_epochs=None must be a number"):
        config_schema.check(filled)
    assert config_lib.parse_value(loaded, "num_epochs", "3") == 3.0
    config_schema.check(config_lib.override(loaded, {"seed": 4, "num_epochs": 3}))


@pytest.mark.parametrize("value", [(16, 24), None])
def test_a_size_is_the_same_after_it_was_written(tmp_path, value):
    config = config_lib.override(testing.get_config(), {"dataset.image_size": (4, 4)})
    config = config_lib.override(config, {"dataset.image_size": value})
    config_schema.check(config)
    config_lib.write(tmp_path, config)
    saved = config_lib.from_json(tmp_path / "config.json")
    assert saved.dataset.image_size == value
    assert config_lib.differences(saved, config_lib.filled(config)) == []
    with config.unlocked():
        config.dataset.image_size = [1, 2]  # as a person may write it
    assert config_lib.filled(config).dataset.image_size == (1, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [("(16,24)", (16, 24)), ("16, 24", (16, 24)), ("[16, 24]", (16, 24)), ("None", None)],
)
def test_a_size_is_given_as_a_text(text, value):
    assert config_lib.parse_value(testing.get_config(), "dataset.image_size", text) == value


@pytest.mark.parametrize(("text", "value"), [("True", True), ("false", False), ("None", None)])
def test_a_switch_that_may_be_left_open_is_given_as_a_text(text, value):
    config, key = testing.get_config(), "dataset.streaming"
    assert config_lib.parse_value(config, key, text) is value
    config = config_lib.override(config, {key: value})
    config_schema.check(config)
    assert config_lib.override(config, {key: None}).dataset.streaming is None
    for wrong in ("", "maybe"):
        with pytest.raises(UserError, match=f"{key}={wrong} must be true or false"):
            config_lib.parse_value(config, key, wrong)
    with pytest.raises(UserError, match=f"{key} must be true or false, not 1"):
        config_lib.override(config, {key: 1})


@pytest.mark.parametrize("text", ["16x24", "(16,)24", "(16,24", "", "1.5,2", "nan"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match=r"dataset\.image_size=.* must be whole numbers as in \(32"):
        config_lib.parse_value(testing.get_config(), "dataset.image_size", text)


@pytest.mark.parametrize("value", [(16,), (0, 4), (4, 70_000), (1.5, 2), (True, 4), "44", 16])
def test_what_no_image_has_is_refused(value):
    config = testing.get_config()
    with config.ignore_type():
        config.dataset.image_size = value
    with pytest.raises(UserError, match=r"dataset\.image_size=.* must be \(height, width\)"):
        config_schema.check(config)
