"""Tables that spreadsheets read: nothing in them is taken for more than a number or a text."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from eanet.errors import printable


def cell(value: Any) -> Any:
    """A value as a cell of CSV: nothing unmeasured, no text that is a formula or not printable."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def table(heading: Sequence[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """A file of CSV: a line of names and one for each row."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows(map(cell, row) for row in (heading, *rows))
    return file.getvalue().encode()
