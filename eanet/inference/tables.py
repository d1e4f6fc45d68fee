"""Predictions as a table in a file, a row for each image: CSV, JSON lines or Parquet.

The columns are `path`, then `class_1` and `probability_1` of the likeliest class, and so on, and
`error`, which says what is wrong with an image that has no prediction. In CSV, as in all tables for
spreadsheets, what is not printable is escaped, and what would be a formula has an apostrophe first;
JSON lines have every text as it is.
"""

import contextlib
import csv
import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from eanet import files
from eanet.display import spreadsheet
from eanet.errors import UserError

Row = Mapping[str, Any]  # by column; what is missing is empty
Write = Callable[[Sequence[Row]], object]

_ADVICE = "make room or give another --out"
_ROWS_IN_GROUP = 2**14  # of Parquet
_LONGEST_LINE = 2**20  # bytes of a file that may be another one's


def columns(top: int) -> list[str]:
    """The names of the columns, for so many classes of an image."""
    ranked = [f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "probability")]
    return ["path", *ranked, "error"]


def check(path: Path) -> None:
    """Raises `UserError` where no table can be, or something else lies that would be lost."""
    known = _FORMATS.get(path.suffix.lower())
    if known is None:
        raise UserError(f"--out={path} must end in {' or '.join(_FORMATS)}")
    if known.open is _parquet and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"--out={path} needs pyarrow: pip install pyarrow; .csv and .jsonl need nothing"
        )
    try:
        descriptor = files.open_regular(path, follow=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise files.cannot_write(path, error, _ADVICE) from None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_size and not known.is_ours(file):
            raise UserError(
                f"--out={path} is there and holds no predictions; remove it or give another --out"
            )


@contextlib.contextmanager
def open_table(path: Path, top: int) -> Iterator[Write]:
    """Takes rows as they come; the file has its name when the context ends, and only then.

    Raises:
      UserError: it cannot be written.
    """
    form = _FORMATS[path.suffix.lower()]
    try:
        with files.replacing(path) as file, form.open(file, columns(top)) as append:
            yield append
    except OSError as error:
        raise files.cannot_write(path, error, _ADVICE) from error


@contextlib.contextmanager
def _csv(file: IO[bytes], names: list[str]) -> Iterator[Write]:
    def write(rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        file.write(text.getvalue().encode())

    write([names])
    yield lambda rows: write([spreadsheet.cell(row.get(name)) for name in names] for row in rows)


@contextlib.contextmanager
def _jsonl(file: IO[bytes], names: list[str]) -> Iterator[Write]:
    yield lambda rows: file.writelines(
        files.strict_json({name: row.get(name) for name in names}) for row in rows
    )


@contextlib.contextmanager
def _parquet(file: IO[bytes], names: list[str]) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema(
        (name, pyarrow.float32() if name.startswith("probability") else pyarrow.string())
        for name in names
    )
    writer = parquet.ParquetWriter(file, schema)
    waiting: list[Row] = []

    def write(rows: Sequence[Row], group: int = _ROWS_IN_GROUP) -> None:
        waiting.extend({**row, "path": _as_utf8(row["path"])} for row in rows)
        if len(waiting) >= group:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
            waiting.clear()

    try:
        yield write
        write((), group=1)
        writer.close()
    finally:
        writer.is_open = False  # else it is closed once more when it is forgotten, and fails loudly


def _as_utf8(text: str) -> str:
    """The text with escapes for halves of surrogate pairs, which a path may contain."""
    return text.encode("utf-8", "backslashreplace").decode()


def _are_ours(names: Sequence[str]) -> bool:
    """Whether a table with just these columns is one of predictions, for some number of classes."""
    return list(names) == columns(max(1, (len(names) - 2) // 2))


def _is_csv_of_ours(file: IO[bytes]) -> bool:
    line = file.readline(_LONGEST_LINE).decode(errors="replace")
    return _are_ours(line.rstrip("\r\n").split(","))


def _is_jsonl_of_ours(file: IO[bytes]) -> bool:
    try:
        row = json.loads(file.readline(_LONGEST_LINE))
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and _are_ours(list(row))


def _is_parquet_of_ours(file: IO[bytes]) -> bool:
    from pyarrow import ArrowException, parquet

    try:
        return _are_ours(parquet.read_schema(file).names)
    except ArrowException:
        return False


class _Format(NamedTuple):
    open: Callable[[IO[bytes], list[str]], contextlib.AbstractContextManager[Write]]
    is_ours: Callable[[IO[bytes]], bool]  # whether a file that is not empty is such a table


_FORMATS = {
    ".csv": _Format(_csv, _is_csv_of_ours),
    ".jsonl": _Format(_jsonl, _is_jsonl_of_ours),
    ".parquet": _Format(_parquet, _is_parquet_of_ours),
}
