"""List files: one image per line, `relative/path.JPEG 123`."""

from __future__ import annotations

import io
import warnings
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np

from beit.data.image_list import ImageList, pack_offsets
from beit.data.list_paths import relative_names
from beit.files import replacing
from beit.metadata.class_names import parse_class_names
from beit.text_files import read_text, read_utf8

_SHOWN = 80  # characters of a bad line that a message shows; the file may be something else than a list
MAX_LIST_BYTES = 4 << 30
"""Of a list of images: a hundred million of them."""
_MAX_DIGITS = 18  # of a label, so that it fits int64


def read_list_file(
    list_file: Path,
    root: Path,
    num_classes: int | None,
    *,
    multi_label: bool = False,
    labeled: bool = True,
) -> ImageList:
    """The images of a list file in its order.

    A line is a path relative to `root`, a blank or tab, and the class number, counted from 0. The last blank
    separates the two, so names may contain blanks. With `multi_label` a line has any number of classes, `path 3,7,9`, or
    `path -` for none of them. A byte order mark, CRLF, surrounding blanks and empty lines are accepted, and paths as other
    programs write them (`relative_names`), which the notes of the list count.

    Args:
        list_file: UTF-8 text.
        root: folder the paths are relative to.
        num_classes: labels must be below this; None accepts any label.
        multi_label: images have any number of labels.
        labeled: False leaves out the labels.

    Raises:
        FileNotFoundError: `list_file` does not exist or is a folder.
        ValueError: the list is empty or not UTF-8, or a line has no label, a label that is not an integer or
            outside [0, num_classes), a label twice, or a path that leaves `root`. The message names file and line.
    """
    form = "path 3,7" if multi_label else "path label"
    if not list_file.is_file():
        what = "is a folder" if list_file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{list_file} {what}; expected a text file of lines `{form}`")
    names, labels, counts, numbers = _parse_lines(list_file, form, multi_label or not labeled)
    if not names:
        raise ValueError(f"{list_file} is empty; expected lines `{form}`")
    rows = np.repeat(np.arange(len(names)), counts)  # line of each label
    if num_classes is not None and labels and max(labels) >= num_classes:
        raise ValueError(_describe_bad_label(labels, num_classes, np.asarray(numbers)[rows], list_file))
    values = np.array(labels, np.int64) if labeled else None
    if values is not None and multi_label:
        values = multi_hot(values, rows, (len(names), num_classes or 1 + max(labels, default=0)))
        twice = np.flatnonzero(values.sum(1) != counts)
        if len(twice):
            raise ValueError(
                f"{list_file}:{numbers[twice[0]]}: a label is given twice; name each class of an image once. Lines with 0 "
                "or 1 for each class, as PaddleClas has them, are read from CSV files (-dataset csv)"
            )
    return listed_images(names, values, numbers, list_file, root)


def listed_images(
    names: list[bytes], labels: np.ndarray | None, numbers: Sequence[int], file: Path, root: Path
) -> ImageList:
    """The images that a file of any form lists.

    Args:
        names: paths as written in the file, UTF-8.
        labels: as in `ImageList`.
        numbers: line number of each name, for messages.
        file: file that lists the images, for messages.
        root: folder the paths are relative to.

    Raises:
        ValueError: a path leaves `root`, or lines give an image different sets of labels.
    """
    names, notes = relative_names(names, root)
    _check_paths(names, numbers, file, root)
    _check_duplicates(names, labels, numbers, file)
    offsets = pack_offsets(np.fromiter(map(len, names), np.int64, len(names)))
    return ImageList(root, b"".join(names), offsets, labels, notes=tuple(f"{file}: {note}" for note in notes))


def multi_hot(labels: np.ndarray, rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether an image has a class, bool `[images, K]`.

    Args:
        labels: class numbers.
        rows: image of each label.
        shape: number of images, and K.
    """
    values = np.zeros(shape, bool)
    values[rows, labels] = True
    return values


def format_line(root: Path, name: str, label: int) -> str:
    """The line of a list file for the image `name` in `root`, without its line break.

    Raises:
        ValueError: the name would not be read back: it is not UTF-8, has a line break or begins or ends with a blank.
    """
    encoded = name.encode(errors="replace")
    if encoded.decode() != name or b"\n" in encoded or encoded != encoded.strip():
        raise ValueError(f"{root / name!r}: this name cannot be written in a list file; rename it")
    return f"{name} {label}"


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a text file that appears complete or not at all."""
    with replacing(file) as out:
        out.writelines(f"{line}\n".encode() for line in lines)


def read_class_names(file: Path, num_classes: int) -> tuple[str, ...]:
    """Class names, one per line in the order of the labels; see `parse_class_names`.

    Raises:
        ValueError: the file does not hold `num_classes` names, or is not UTF-8.
    """
    names = parse_class_names(read_text(file))
    if len(names) != num_classes:
        raise ValueError(
            f"{file} has {len(names)} class names for MODEL.NUM_CLASSES={num_classes}; "
            f"correct the file or say `-opts MODEL.NUM_CLASSES {len(names)}`"
        )
    return names


class _Lines(NamedTuple):
    names: list[bytes]
    labels: array[int]  # of all lines
    counts: array[int]  # number of labels of each line
    numbers: array[int]  # number of each line, from 1; empty lines count


def _parse_lines(list_file: Path, form: str, has_several: bool) -> _Lines:
    """The columns of a list file.

    Args:
        list_file: UTF-8 text.
        form: of a line, for messages.
        has_several: whether a line may have several labels or none.

    Raises:
        ValueError: not UTF-8, or lines of another form.
    """
    lines = _Lines([], array("q"), array("q"), array("q"))
    first_bad, bad_numbers = b"", array("q")
    for number, line in enumerate(io.BytesIO(read_utf8(list_file, MAX_LIST_BYTES)), start=1):
        columns = line.strip().rsplit(None, 1)  # bytes: only ASCII blanks separate
        if not columns:
            continue
        if len(columns) == 2 and _is_label(columns[1]):
            lines.labels.append(int(columns[1]))
            lines.counts.append(1)
        elif len(columns) == 2 and has_several and (found := _parse_labels(columns[1])) is not None:
            lines.labels.extend(found)
            lines.counts.append(len(found))
        else:
            first_bad = first_bad or line.strip()
            bad_numbers.append(number)
            continue
        lines.names.append(columns[0])
        lines.numbers.append(number)
    if bad_numbers:
        more = f" ({len(bad_numbers) - 1} more such lines)" if len(bad_numbers) > 1 else ""
        problem = _describe_bad_line(first_bad, form)
        raise ValueError(f"{list_file}:{bad_numbers[0]}: {problem}{more}")
    return lines


def _parse_labels(text: bytes) -> list[int] | None:
    """The class numbers of an image with several or without any; None if the text has another form."""
    parts = [] if text == b"-" else text.split(b",")
    return [int(part) for part in parts] if all(map(_is_label, parts)) else None


def _is_label(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _MAX_DIGITS


def _describe_bad_line(line: bytes, form: str) -> str:
    label = line.rsplit(None, 1)[-1]
    shown = label.decode()[:_SHOWN]
    if label == line:
        hint = "; separate the columns by a blank or tab" if b"," in line else ""
        return f"one column {shown!r}, expected `{form}`{hint}"
    if label.startswith(b"-") and label[1:].isdigit():
        return f"negative label {shown}, labels count from 0"
    if form == "path label" and all(map(_is_label, label.split(b","))):
        return f"{shown} are several labels; expected `path label`, or say `-opts TASK multilabel TRAIN.LOSS bce`"
    return f"label {shown!r} is not an integer, expected `{form}`"


def _describe_bad_label(labels: Sequence[int], num_classes: int, numbers: np.ndarray, list_file: Path) -> str:
    low, high = min(labels), max(labels)
    row = next(row for row, label in enumerate(labels) if label >= num_classes)
    if low == 1 and high == num_classes:
        hint = "the labels seem to count from 1: subtract 1 from each"
    else:
        hint = f"correct the list or say `-opts MODEL.NUM_CLASSES {high + 1}`"
    return (
        f"{list_file}:{numbers[row]}: label {labels[row]} for MODEL.NUM_CLASSES={num_classes} "
        f"(labels of the list: {low} to {high}); {hint}"
    )


def _check_paths(names: Sequence[bytes], numbers: Sequence[int], list_file: Path, root: Path) -> None:
    """Refuse names of files outside of the data folder: a list may come from anyone."""
    for number, name in zip(numbers, names, strict=True):
        if b".." in name or name[0] in b"/\\" or name[1:2] == b":":
            path = PureWindowsPath(name.decode())  # accepts both kinds of slashes
            if path.drive or path.root or ".." in path.parts:
                shown = name.decode()
                shown = f"{shown[:_SHOWN]}…" if len(shown) > _SHOWN else shown
                raise ValueError(
                    f"{list_file}:{number}: path {shown!r} leaves the data folder; "
                    f"paths must be relative to {root}"
                )


def _check_duplicates(
    names: Sequence[bytes], labels: np.ndarray | None, numbers: Sequence[int], list_file: Path
) -> None:
    """Warn of images that are listed twice. With several labels for each image, different ones would contradict."""
    distinct = len(set(names))
    if distinct == len(names):
        return
    of_name = [b""] * len(names) if labels is None else [label.tobytes() for label in labels]
    conflicts = len(set(zip(names, of_name, strict=True))) - distinct
    if conflicts and labels is not None and labels.ndim == 2:
        first: dict[bytes, bytes] = {}
        row = next(
            row
            for row, (name, own) in enumerate(zip(names, of_name, strict=True))
            if first.setdefault(name, own) != own
        )
        raise ValueError(
            f"{list_file}:{numbers[row]}: {names[row].decode()} has other labels than in a line above; write all labels of an "
            "image in one line"
        )
    warnings.warn(
        f"{list_file}: {len(names) - distinct} of {len(names)} lines repeat an image"
        + (f", {conflicts} of them with another label" if conflicts else ""),
        stacklevel=4,
    )
