"""CSV tables that this package writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from beit.files import replacing
from beit.text_files import read_bytes

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_table(path: Path, titles: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a CSV file in UTF-8, whole or not at all, in a new folder if need be; its path.

    Args:
        path: file to write.
        titles: of the columns.
        rows: cells, which `as_text` makes safe.

    Raises:
        OSError: as `files.replacing`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows([as_text(cell) for cell in row] for row in rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))
    return path


def as_text(cell: object) -> object:
    """A cell that spreadsheet programs do not run as a formula: `=1+1` gets an apostrophe in front, numbers do not.

    Source: https://owasp.org/www-community/attacks/CSV_Injection.
    """
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def refuse_other_table(path: Path, titles: Sequence[str]) -> None:
    """Refuse to write a table over a file that is not a table with these titles.

    Raises:
        ValueError: there is such a file.
        OSError: it cannot be read.
    """
    first = f"{','.join(titles)}\n".encode()
    if path.exists() and not read_bytes(path, 1 << 30).startswith(first):
        raise ValueError(
            f"{path} exists and is another table, which would be overwritten; name another --output"
        )
