"""What is written as a table is read again by those who read tables."""

import csv
import json
import os
import sys

import pytest
from pyarrow import parquet

from eanet.errors import UserError
from eanet.inference import tables

ROWS = [
    {
        "path": "a.png", "class_1": "cat", "probability_1": 0.75, "class_2": "=dog",
        "probability_2": 1e-9,
    },
    {"path": "=cmd\n\udcff\x1b,\".png", "error": "it cannot be read"},
]  # fmt: skip
NAMES = ["path", "class_1", "probability_1", "class_2", "probability_2", "error"]
ENDINGS = (".csv", ".jsonl", ".parquet")


def write(path, rows=ROWS, blocks=1):
    tables.check(path)
    with tables.open_table(path, top=2) as append:
        for _ in range(blocks):
            append(rows)


def test_csv_has_cells_that_no_spreadsheet_computes(tmp_path):
    write(tmp_path / "x.csv")
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    assert names == NAMES
    assert rows == [
        ["a.png", "cat", "0.75", "'=dog", "1e-09", ""],
        ["'=cmd\\n\\udcff\\x1b,\".png", "", "", "", "", "it cannot be read"],
    ]


def test_json_lines_have_every_text_as_it_is(tmp_path):
    write(tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [
        {name: row.get(name) for name in NAMES} for row in ROWS
    ]


def test_parquet_has_its_types(tmp_path):
    write(tmp_path / "x.parquet", blocks=3)
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == NAMES and table.num_rows == 6
    first, second = table.to_pylist()[4:]
    assert first["probability_1"] == 0.75 and first["class_2"] == "=dog"
    assert second["path"] == '=cmd\n\\udcff\x1b,".png' and second["class_1"] is None
    assert str(table.schema.field("probability_1").type) == "float"


def test_parquet_goes_to_the_file_as_it_comes(tmp_path):
    write(tmp_path / "x.parquet", [{"path": f"{i}"} for i in range(5000)], blocks=9)
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_is_replaced_as_a_whole_or_not_at_all(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    write(path)
    before = path.read_bytes()
    with pytest.raises(KeyError), tables.open_table(path, top=2) as append:
        append(ROWS[:1])
        raise KeyError
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    write(path, ROWS[:1])
    assert path.read_bytes() != before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "content",
    [b"path,label\n", b"{}\n", b"PAR1", b"\0", b"path,class_1,probability_1,note\n",
     b'{"path": "a", "note": "b"}\n'],
)  # fmt: skip
def test_what_is_no_such_table_is_not_lost(tmp_path, ending, content):
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is there and holds no predictions"):
        tables.check(path)
    path.write_bytes(b"")
    tables.check(path)


def test_another_table_in_parquet_is_not_lost(tmp_path):
    import pyarrow

    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"path": ["a"], "label": ["cat"]}), path)
    with pytest.raises(UserError, match="holds no predictions"):
        tables.check(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x.txt", r"must end in \.csv or \.jsonl or \.parquet"),
        ("x", "must end in"),
        ("folder.csv", "cannot write .*folder.csv: not a regular file"),
        ("pipe.csv", "cannot write .*pipe.csv: not a regular file"),
    ],
)
def test_where_no_table_can_be_is_said(tmp_path, name, told):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match=told):
        tables.check(tmp_path / name)


def test_without_pyarrow_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install pyarrow; \.csv and \.jsonl"):
        tables.check(tmp_path / "x.parquet")
    tables.check(tmp_path / "x.csv")


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .* No such file"):
        write(tmp_path / "nowhere" / "x.csv")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, ending):
    fdopen = os.fdopen

    def full(*arguments):
        file = fdopen(*arguments)
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
        return file

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space; make room or give another"):
        write(tmp_path / f"x{ending}")
    assert not os.listdir(tmp_path)
