"""CSV files of images with one or several labels: a column for each class, or one column with names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from beit.data.class_folders import in_label_order
from beit.data.folders import shortened_list
from beit.data.image_list import ImageList
from beit.data.images import EXTENSIONS
from beit.data.list_file import MAX_LIST_BYTES, listed_images, multi_hot
from beit.metadata.class_names import parse_class_names
from beit.printable import printable
from beit.text_files import read_text

_CELLS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_SEPARATORS = ("|", ";", ",")


@dataclass(frozen=True)
class _Table:
    """The content of a CSV file: the paths in the first column, and titles and cells of the other columns."""

    file: Path
    titles: list[str]
    paths: list[str]
    cells: list[list[str]]
    numbers: list[int]  # of the lines


def read_csv_file(
    root: Path, split: str, num_classes: int | None, *, multi_label: bool = False, labeled: bool = True
) -> ImageList | None:
    """The images of `train.csv` or `val.csv`, with class names; None if there is no such file.

    The first line has titles, the first column paths relative to `root`. The other columns are one per class, with its name
    as the title and 0 or 1 in each line; or a single column with class names. Several names are separated by `|`, else by
    `;`, else by `,`, whichever the columns of both files contain, and by blanks if they contain none of these. The classes
    are those of `class_names.txt` or, without it, of `train.csv`, in the order of class folders.

    Args:
        root: folder that holds the files.
        split: "train" or "val".
        num_classes: which the file must have; None accepts any number.
        multi_label: images have any number of labels, also none; else exactly one.
        labeled: False leaves the labels out.

    Raises:
        ValueError: bad data, other classes than those of training, or another number of classes than `num_classes`. The
            message names the file and the line.
    """
    tables = {name: _read_table(root / f"{name}.csv") for name in ("train", "val")}
    table = tables[split]
    if table is None:
        return None
    if not labeled:
        return _listed(table, None, root)
    names_file = root / "class_names.txt"
    order = parse_class_names(read_text(names_file)) if names_file.is_file() else None
    if order is not None and len(set(order)) != len(order):
        raise ValueError(f"{names_file}: a class is named twice; labels are found by name")
    found = [known for known in tables.values() if known is not None]
    read = _labels_of_names if any(len(known.titles) == 1 for known in found) else _labels_of_columns
    order, labels = read(found, table, order, multi_label)
    if not order:
        raise ValueError(f"{_source(found[0])} names no class")
    if num_classes is not None and len(order) != num_classes:
        raise ValueError(
            f"{table.file} has {len(order)} classes for MODEL.NUM_CLASSES={num_classes}; say `-opts MODEL.NUM_CLASSES "
            f"{len(order)}`"
        )
    counts = np.fromiter(map(len, labels), np.int64, len(labels))
    values = np.array([label for row in labels for label in row], np.int64)
    if multi_label:
        rows = np.repeat(np.arange(len(labels)), counts)
        return replace(
            _listed(table, multi_hot(values, rows, (len(labels), len(order))), root), class_names=order
        )
    wrong = np.flatnonzero(counts != 1)
    if len(wrong):
        raise ValueError(
            f"{table.file}:{table.numbers[wrong[0]]}: {counts[wrong[0]]} labels, expected one for each image; say `-opts TASK "
            "multilabel TRAIN.LOSS bce` if images have any number of labels"
        )
    return replace(_listed(table, values, root), class_names=order)


def _listed(table: _Table, labels: np.ndarray | None, root: Path) -> ImageList:
    return listed_images([path.encode() for path in table.paths], labels, table.numbers, table.file, root)


def _read_table(file: Path) -> _Table | None:
    if not file.is_file():
        return None
    reader = csv.reader(io.StringIO(read_text(file, MAX_LIST_BYTES), newline=""), strict=True)
    rows, numbers = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append([cell.strip() for cell in row])
                numbers.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: not valid CSV: {error}") from None
    if len(rows) < 2 or len(rows[0]) < 2:
        raise ValueError(
            f"{file} has {len(rows)} lines, the first with {len(rows[0]) if rows else 0} columns; expected a line of titles "
            "and then lines `path,labels` or `path,0,1,…`, separated by commas"
        )
    first, *titles = rows[0]
    if not first:
        raise ValueError(
            f"{file}: the first column has no title; it must have the paths (with pandas: to_csv(…, index=False))"
        )
    if PurePosixPath(first).suffix.lower() in EXTENSIONS:
        raise ValueError(
            f"{file}: the first line must have titles, such as `path,label`; it has the image {printable(first)}"
        )
    if len(set(titles)) != len(titles) or not all(titles):
        raise ValueError(
            f"{file}: the titles of columns must be different and not empty; got {', '.join(titles)}"
        )
    for row, number in zip(rows, numbers, strict=True):
        unprintable = [cell for cell in row if printable(cell) != cell]
        if unprintable:
            raise ValueError(
                f"{file}:{number}: line break or control character in {printable(unprintable[0])}; remove it"
            )
        if len(row) != len(rows[0]) or not row[0]:
            raise ValueError(f"{file}:{number}: {len(row)} columns, expected a path and {len(titles)} more")
    return _Table(file, titles, [row[0] for row in rows[1:]], [row[1:] for row in rows[1:]], numbers[1:])


def _labels_of_columns(
    tables: Sequence[_Table], table: _Table, order: tuple[str, ...] | None, multi_label: bool
) -> tuple[tuple[str, ...], list[list[int]]]:
    """Class names, and the labels of each image from a column for each class."""
    order = order or tuple(tables[0].titles)
    for known in tables:
        different = sorted(set(known.titles) ^ set(order))
        if different:
            raise ValueError(
                f"{known.file} does not have the columns of the {len(order)} classes of {_source(tables[0])}: "
                f"{shortened_list(different)}"
            )
    label_of = {name: label for label, name in enumerate(order)}
    labels = []
    for number, cells in zip(table.numbers, table.cells, strict=True):
        for title, cell in zip(table.titles, cells, strict=True):
            if cell.lower() not in _CELLS:
                raise ValueError(
                    f"{table.file}:{number}: {cell!r} in the column {title}; expected 0 or 1 for each class, or a file with two "
                    "columns, path and names"
                )
        labels.append(
            [label_of[title] for title, cell in zip(table.titles, cells, strict=True) if _CELLS[cell.lower()]]
        )
    return order, labels


def _labels_of_names(
    tables: Sequence[_Table], table: _Table, order: tuple[str, ...] | None, multi_label: bool
) -> tuple[tuple[str, ...], list[list[int]]]:
    """Class names, and the labels of each image from one column with names."""
    wide = [known.file for known in tables if len(known.titles) != 1]
    if wide:
        raise ValueError(f"{wide[0]} has more than two columns, the other file has two; write both alike")
    text = "".join(row[0] for known in tables for row in known.cells)
    separator = next((mark for mark in _SEPARATORS if mark in text), None)

    whole = set(order or ())

    def names_of(known: _Table) -> list[list[str]]:
        cells = [row[0] for row in known.cells]
        if not multi_label:
            return [[cell] if cell else [] for cell in cells]
        return [[cell] if cell in whole else _split(cell, separator) for cell in cells]

    if order is None:
        if tables[0].file.stem != "train":
            raise ValueError(
                f"{table.file} has only the classes of its own images; add train.csv, or class_names.txt with all names"
            )
        order = in_label_order({name for row in names_of(tables[0]) for name in row})
    label_of = {name: label for label, name in enumerate(order)}
    labels = []
    for number, names in zip(table.numbers, names_of(table), strict=True):
        unknown = [name for name in names if name not in label_of]
        if unknown:
            raise ValueError(
                f"{table.file}:{number}: {unknown[0]!r} is not one of the {len(order)} classes "
                f"({shortened_list(list(order))}) of {_source(tables[0])}"
            )
        labels.append(sorted({label_of[name] for name in names}))
    return order, labels


def _source(first: _Table) -> Path:
    names = first.file.with_name("class_names.txt")
    return names if names.is_file() else first.file


def _split(cell: str, separator: str | None) -> list[str]:
    return [name for part in cell.split(separator) if (name := part.strip())]
