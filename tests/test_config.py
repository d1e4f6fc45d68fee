import pytest
from absl import flags

from configs import eanet_digits
from eanet import config as config_lib
from eanet import config_flags
from eanet.errors import UserError
from eanet.training import config_schema

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


def test_an_unknown_key_in_a_file_of_flags_is_named(tmp_path):
    (tmp_path / "flags").write_text("--config.model.dept=2\n")
    values = flags.FlagValues()
    config_flags.DEFINE_config(flag_values=values)
    with pytest.raises(UserError, match=r"'model\.dept'; did you mean model\.depth"):
        config_flags.parse(
            ["main.py", "--config=configs/testing.py", f"--flagfile={tmp_path}/flags"], values
        )


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
