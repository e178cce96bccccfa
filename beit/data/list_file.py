"""List files: one image per line, `relative/path.JPEG 123`."""

from __future__ import annotations

import codecs
import warnings
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from beit.data.image_list import ImageList, pack_offsets

_BLANK = np.zeros(256, dtype=bool)
_BLANK[[ord(character) for character in " \t\r\v\f"]] = True
_SHOWN = 80  # characters of a bad line in a message: the file may be no list at all
_MAX_DIGITS = 18  # of a label: 10^18 still fits int64


def read_list_file(list_file: Path, root: Path, num_classes: int | None) -> ImageList:
    """The images of a list file in its order.

    A line is a path relative to `root`, a blank or tab, and the class number from 0 on. The last blank
    separates, so names may hold blanks. A byte order mark, CRLF, blanks around and empty lines do no harm.

    Args:
        list_file: UTF-8 text.
        root: folder the paths are relative to.
        num_classes: labels must be below; None for any label.

    Raises:
        FileNotFoundError: `list_file` does not exist or is a folder.
        ValueError: the list is empty or not UTF-8, or a line has no label, no integer label, a label outside
            [0, num_classes), or a path that leaves `root`. The message names file and line.
    """
    if not list_file.is_file():
        what = "is a folder" if list_file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{list_file} {what}; expected a text file of lines `path label`")
    data = list_file.read_bytes().removeprefix(codecs.BOM_UTF8)
    _check_encoding(data, list_file)
    text = np.frombuffer(data, np.uint8)
    lines = _split_lines(text)
    if not len(lines.starts):
        raise ValueError(f"{list_file} is empty; expected lines `path label`")
    name_ends, label_starts = _split_columns(text, lines)
    labels, is_label = _parse_labels(text, label_starts, lines.ends)
    is_line = is_label & (name_ends > lines.starts)
    if not is_line.all():
        raise ValueError(_describe_bad_line(data, lines, is_line, list_file))
    if num_classes is not None:
        _check_labels(labels, num_classes, lines.numbers, list_file)
    images = ImageList(
        root, _join(text, lines.starts, name_ends), pack_offsets(name_ends - lines.starts), labels
    )
    _check_paths(images, lines.numbers, list_file)
    _warn_of_duplicates(images, list_file)
    return images


def read_class_names(file: Path, num_classes: int) -> tuple[str, ...]:
    """Class names, one a line in the order of the labels.

    Raises:
        ValueError: the file does not hold `num_classes` names, or is not UTF-8.
    """
    data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    _check_encoding(data, file)
    names = tuple(line.strip() for line in data.decode().splitlines() if line.strip())
    if len(names) != num_classes:
        raise ValueError(
            f"{file} has {len(names)} class names for MODEL.NUM_CLASSES={num_classes}; "
            f"correct the file or say `-opts MODEL.NUM_CLASSES {len(names)}`"
        )
    return names


@dataclass(frozen=True)
class _Lines:
    """The lines that hold something: number in the file (from 1), first byte, end without trailing blanks."""

    numbers: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def _split_lines(text: np.ndarray) -> _Lines:
    breaks = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], breaks + 1])
    ends = np.concatenate([breaks, [text.size]])
    ends = _trim(text, starts, ends)
    rows = np.flatnonzero(ends > starts)
    lines = _Lines(rows + 1, starts[rows], ends[rows])
    while (leading := _BLANK[text[lines.starts]]).any():  # ends after the first byte that is no blank
        lines.starts[leading] += 1
    return lines


def _trim(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """`ends` moved back over trailing blanks."""
    ends = ends.copy()
    rows = np.flatnonzero(ends > starts)
    while len(rows := rows[_BLANK[text[ends[rows] - 1]]]):
        ends[rows] -= 1
        rows = rows[ends[rows] > starts[rows]]
    return ends


def _split_columns(text: np.ndarray, lines: _Lines) -> tuple[np.ndarray, np.ndarray]:
    """End of the name and begin of the label of each line; a line of one column has an empty name."""
    blanks = np.flatnonzero(_BLANK[text])
    last = np.searchsorted(blanks, lines.ends) - 1  # the last blank before the end of the line
    separators = np.full_like(lines.starts, -1)
    separators[last >= 0] = blanks[last[last >= 0]]
    separators = np.maximum(separators, lines.starts - 1)
    return _trim(text, lines.starts, np.maximum(separators, lines.starts)), separators + 1


def _parse_labels(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value of the decimal digits in each range, and whether there is nothing but digits."""
    widths = ends - starts
    labels = np.zeros(len(starts), np.int64)
    valid = (widths > 0) & (widths <= _MAX_DIGITS)
    for place in range(int(widths[valid].max(initial=0))):
        rows = np.flatnonzero(valid & (widths > place))
        digits = text[ends[rows] - 1 - place].astype(np.int64) - ord("0")
        valid[rows] = (digits >= 0) & (digits <= 9)
        labels[rows] += digits * 10**place
    return labels, valid


def _join(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> bytes:
    """The bytes of all ranges, one after the other."""
    edges = np.zeros(text.size + 1, np.int8)
    edges[starts] += 1
    edges[ends] -= 1
    return text[np.cumsum(edges[:-1], dtype=np.int8).view(bool)].tobytes()


def _check_encoding(data: bytes, file: Path) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.start + 4]
        raise ValueError(
            f"{file}:{line}: not UTF-8 (bytes {found!r}); save the file as UTF-8, "
            "e.g. with `iconv -f GBK -t UTF-8`"
        ) from error


def _describe_bad_line(data: bytes, lines: _Lines, is_line: np.ndarray, list_file: Path) -> str:
    row = int(np.argmin(is_line))
    line = data[lines.starts[row] : lines.ends[row]].decode()
    label = line.rsplit(None, 1)[-1]
    if label == line:
        hint = "; separate the columns by a blank or tab" if "," in line else ""
        found = f"one column {line[:_SHOWN]!r}, expected `path label`{hint}"
    elif label.startswith("-") and label[1:].isdigit():
        found = f"negative label {label[:_SHOWN]}, labels count from 0"
    else:
        found = f"label {label[:_SHOWN]!r} is not an integer, expected `path label`"
    others = int((~is_line).sum()) - 1
    return f"{list_file}:{lines.numbers[row]}: {found}" + (f" ({others} more such lines)" if others else "")


def _check_labels(labels: np.ndarray, num_classes: int, numbers: np.ndarray, list_file: Path) -> None:
    low, high = int(labels.min()), int(labels.max())
    if high < num_classes:
        return
    row = int(np.argmax(labels >= num_classes))
    if low == 1 and high == num_classes:
        hint = "the labels seem to count from 1: subtract 1 from each"
    else:
        hint = f"correct the list or say `-opts MODEL.NUM_CLASSES {high + 1}`"
    raise ValueError(
        f"{list_file}:{numbers[row]}: label {labels[row]} for MODEL.NUM_CLASSES={num_classes} "
        f"(labels of the list: {low} to {high}); {hint}"
    )


def _check_paths(images: ImageList, numbers: np.ndarray, list_file: Path) -> None:
    """A list may come from anyone: it names files below the data folder only."""
    names = np.frombuffer(images.names, np.uint8)
    first = names[images.offsets[:-1]]
    second = names[np.minimum(images.offsets[:-1] + 1, names.size - 1)]
    suspects = (first == ord("/")) | (first == ord("\\")) | (second == ord(":"))
    dots = np.flatnonzero((names[:-1] == ord(".")) & (names[1:] == ord(".")))
    suspects[np.searchsorted(images.offsets, dots, side="right") - 1] = True
    for row in np.flatnonzero(suspects):
        path = PureWindowsPath(images.name(row))  # understands both kinds of slashes
        if path.drive or path.root or ".." in path.parts:
            raise ValueError(
                f"{list_file}:{numbers[row]}: path {images.name(row)!r} leaves the data folder; "
                f"paths must be relative to {images.root}"
            )


def _warn_of_duplicates(images: ImageList, list_file: Path) -> None:
    ends = images.offsets.tolist()
    names = [images.names[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    distinct = len(set(names))
    if distinct == len(names):
        return
    assert images.labels is not None
    conflicts = len(set(zip(names, images.labels.tolist(), strict=True))) - distinct
    warnings.warn(
        f"{list_file}: {len(names) - distinct} of {len(names)} lines repeat an image"
        + (f", {conflicts} of them with another label" if conflicts else ""),
        stacklevel=3,
    )
