"""`bad_images.txt`: the training images that a run could not read, one line `path<TAB>reason` for each attempt.

The file is also how data workers report to the trainer: they run in processes of their own and share nothing else with
all ranks of a machine. A run that continues in the folder, perhaps after a repair, counts anew: it appends `START`, and
only what follows the last such line is counted.
"""

from __future__ import annotations

import os
from pathlib import Path

from beit.data.images import ImageError

START = "-- a run started: the images above are counted again only if they still cannot be read"


def record(file: Path, error: ImageError) -> None:
    """Append an image in one write, so that lines of several processes do not mix."""
    reason = " ".join(error.reason.split())
    # Names may contain tabs and line breaks; a reason contains neither.
    _append(file, f"{error.path}".replace("\n", r"\n") + f"\t{reason}")


def start(file: Path) -> None:
    """Exclude what the file holds from the count; nothing is removed. Every rank may call it before training."""
    if file.exists() and _lines(file)[-1:] != [os.fsencode(START)]:
        _append(file, START)


def recorded(file: Path) -> set[str]:
    """The paths recorded since the last `start`."""
    if not file.exists():
        return set()
    lines = _lines(file)
    mark = os.fsencode(START)
    begin = len(lines) - lines[::-1].index(mark) if mark in lines else 0
    return {os.fsdecode(line.rpartition(b"\t")[0]) for line in lines[begin:]}


def _lines(file: Path) -> list[bytes]:
    """The lines without their ends. Bytes, because other line breaks than this one may be part of a name."""
    return file.read_bytes().split(b"\n")[:-1]


def _append(file: Path, line: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, os.fsencode(f"{line}\n"))
    finally:
        os.close(handle)
