"""A CSV or JSON lines file with an image a row: `path`, `label`, and `split` where it divides them.

Paths are relative to the file and stay in its folder and those below. What a row cannot mean is
refused with the number of its line; more columns are ignored.
"""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from eanet import files
from eanet.errors import UserError

ENDINGS = (".csv", ".jsonl")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_MOST_BYTES = 2**30
_LONGEST_LABEL = 255  # characters; a folder of a class has no longer name either


class Row(NamedTuple):
    """An image of a table."""

    line: int  # where it stands, from 1 on
    path: Path
    label: str
    split: str | None  # "train", "val" or "test"; None in all rows where the table has no splits


def read_table(table: Path) -> list[Row]:
    """The rows of a table, in their order.

    Raises:
        UserError: it cannot be read, has no rows, or one of them is not as above; or an image
            stands there twice.
    """
    rows: list[Row] = []
    seen: dict[Path, int] = {}
    read = _json_lines if table.suffix.lower() == ".jsonl" else _csv
    try:
        for line, values in read(_text(table)):
            try:
                row = _row(table, line, values)
            except ValueError as error:
                raise UserError(f"{table}, line {line}: {error}") from None
            if row.path in seen:
                raise UserError(
                    f"{table}, line {line}: {row.path} stands in line {seen[row.path]} already"
                )
            seen[row.path] = line
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{table} is no CSV: {error}") from None
    if not rows:
        raise UserError(f"{table} has no rows; write a line with path and label for each image")
    if len({row.split is None for row in rows}) > 1:
        line = next(row.line for row in rows if row.split is None)
        raise UserError(f"{table}, line {line}: it has no split, but other lines do")
    return rows


def _text(table: Path) -> str:
    try:
        if os.path.getsize(table) > _MOST_BYTES:
            raise UserError(
                f"{table} has more than {_MOST_BYTES >> 30} GiB and is no list of images"
            )
        content = files.read_bytes(table)
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{table}, line {line}: it is not UTF-8; save it as that") from None


def _csv(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = [name.strip() for name in next(reader, [])]
    if not {"path", "label"} <= set(columns) or len(set(columns)) < len(columns):
        raise csv.Error(
            "its first line must name the columns path and label, and split if you divide the "
            f"images yourself; it is {','.join(columns)!r}"
        )
    for cells in reader:
        if any(cells):
            if len(cells) != len(columns):
                raise csv.Error(
                    f"line {reader.line_num} has {len(cells)} cells, but the first line names "
                    f"{len(columns)} columns"
                )
            yield reader.line_num, dict(zip(columns, cells, strict=True))


def _json_lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            yield number, values if isinstance(values, dict) else {}


def _row(table: Path, line: int, values: Mapping[str, Any]) -> Row:
    path, label, split = (values.get(name) for name in ("path", "label", "split"))
    if type(label) is int:
        label = str(label)
    if not isinstance(path, str) or not isinstance(label, str) or not path or not label.strip():
        raise ValueError("it must have a path and a label, both texts")
    try:
        f"{path}{label}".encode()
    except UnicodeEncodeError:  # JSON can write it
        raise ValueError("its path or label has half of a character") from None
    if os.path.isabs(path) or "\0" in path or os.path.normpath(path).split(os.sep)[0] == "..":
        raise ValueError(f"{path!r} must be a path below the folder of this file")
    if split not in (None, "") and not (isinstance(split, str) and split in _SPLITS):
        raise ValueError(f"its split {split!r} must be one of {', '.join(_SPLITS)}")
    name = unicodedata.normalize("NFC", label.strip())
    if len(name) > _LONGEST_LABEL:
        raise ValueError(f"its label has more than {_LONGEST_LABEL} characters")
    return Row(line, table.parent / os.path.normpath(path), name, _SPLITS.get(split or ""))
