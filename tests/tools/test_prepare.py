import pytest

from eanet.errors import UserError
from eanet.tools import prepare
from tests.helpers.data_fixtures import write_folder


def test_sizes_are_printed_and_odd_names_escaped(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "\x1b[31m"
    write_folder(folder, {"train/a": 5, "train/b": 5, "test/a": 2, "test/b": 2}, (8, 8, 1))
    prepare.main([f"folder:{folder}"], "prepare")
    said = capsys.readouterr().out
    assert "8 train, 2 val, 4 test images of 8x8x1, 2 classes" in said
    assert "\\x1b[31m" in said and "\x1b" not in said


@pytest.mark.parametrize("name", ["digits", "folder:images"])
def test_a_directory_that_would_not_be_read_is_refused(name):
    with pytest.raises(UserError, match=f"data_dir=here has no effect: {name} is not looked for"):
        prepare.main([name, "--data_dir=here"], "prepare")


def test_a_size_may_be_asked_for(tmp_path, capsys):
    write_folder(tmp_path, {"a": 4, "b": 4}, (8, 8, 1))
    prepare.main([f"folder:{tmp_path}", "--image_size", "4", "6", "--resize=pad"], "prepare")
    assert "4 train, 2 val, 2 test images of 4x6x1, 2 classes" in capsys.readouterr().out
