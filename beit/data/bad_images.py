"""`bad_images.txt`: the training images that a run could not read, one line `path<TAB>reason` for each attempt.

The file is also how data workers report to the trainer: they run in processes of their own and share nothing else with
all ranks of a machine. A run that continues in the folder counts from zero, as images may have been repaired: it appends
`START`, and only lines after the last `START` count.
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
    """Exclude the lines of the file from the count; nothing is removed. Every rank may call it before training."""
    if file.exists() and not _ends_with(file, os.fsencode(f"{START}\n")):
        _append(file, START)


class Recorded:
    """The images in a file that were recorded since the last `start`. Each call reads what was added since the one before.

    Args:
        file: need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._position = 0
        self._paths: set[str] = set()

    def __call__(self) -> set[str]:
        """Their paths."""
        size = self._file.stat().st_size if self._file.exists() else 0
        if size < self._position:  # somebody has deleted it
            self._position, self._paths = 0, set()
        if size == self._position:
            return set(self._paths)
        with self._file.open("rb") as file:
            file.seek(self._position)
            added = file.read()
        # Bytes, because other line breaks than this one may be part of a name. The last line may be incomplete.
        lines = added.split(b"\n")[:-1]
        self._position += sum(len(line) + 1 for line in lines)
        for line in lines:
            if line == os.fsencode(START):
                self._paths.clear()
            else:
                self._paths.add(os.fsdecode(line.rpartition(b"\t")[0]))
        return set(self._paths)


def _ends_with(file: Path, line: bytes) -> bool:
    with file.open("rb") as content:
        content.seek(max(content.seek(0, os.SEEK_END) - len(line), 0))
        return content.read() == line


def _append(file: Path, line: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, os.fsencode(f"{line}\n"))
    finally:
        os.close(handle)
