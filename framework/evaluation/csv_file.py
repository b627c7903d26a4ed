"""Tables of numbers as CSV, the way all files of an evaluation are written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from framework.files import write_text

Field = str | float


def write_csv(path: Path | str, header: Sequence[str], rows: Iterable[Sequence[Field]]) -> None:
    """Write atomically; what is not a number is an empty field, and infinity is ``inf``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_text(field) for field in row] for row in rows)
    write_text(path, text.getvalue())


def _text(field: Field) -> str:
    if isinstance(field, str):
        return field
    if math.isnan(field):
        return ""
    return str(int(field)) if float(field).is_integer() else f"{field:.9g}"
