"""Where a run reports: text, JSON lines, dashboards, and a progress bar; rank 0 only."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np
from tqdm import tqdm

from beit.dashboards import Dashboard, log_error, open_dashboard
from beit.printable import printable_lines, text_width

Item = TypeVar("Item")


class RunLog:
    """Text to a stream and `log.txt`, numbers to `metrics.jsonl`, curves and images to dashboards.

    Ranks other than 0 write nothing. A resumed run appends. If a killed run left a partial line at the end of a text
    file, it is terminated; a partial JSON line is removed. A step that runs again after a resume has two lines in
    `metrics.jsonl`, and the later one counts. Dashboards may hide write errors; the JSON line with the same values is
    written first and raises.

    Args:
        folder: output folder, created when missing; None writes to the stream only.
        rank: rank of this process.
        stream: where text is written; stdout by default.

    Raises:
        OSError: from every method, naming the file, when it cannot be written (no space left, no permission).
    """

    def __init__(self, folder: Path | None, rank: int, *, stream: TextIO | None = None) -> None:
        self._writes = rank == 0
        self._folder = folder
        self._stream = stream if stream is not None else sys.stdout
        self._text_file: _LineFile | None = None
        self._metrics_file: _LineFile | None = None
        self._dashboards: list[Dashboard] = []
        self._notes: set[str] = set()
        if folder is None or not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._text_file = _LineFile(folder / "log.txt")
        self._metrics_file = _LineFile(folder / "metrics.jsonl", is_whole=_is_json)

    def add_dashboards(self, names: Iterable[str]) -> None:
        """Opens dashboards, which get what is logged from now on.

        Args:
            names: keys of `beit.dashboards.DASHBOARDS`.

        Raises:
            ValueError, OSError: as `open_dashboard`.
        """
        if self._folder is None or not self._writes:
            return
        for name in names:
            dashboard = open_dashboard(self._folder, name)
            if dashboard is None:
                self.text(
                    f"{name} is not installed: the numbers are in metrics.jsonl alone (beit visualize curves draws them)"
                )
            else:
                self._dashboards.append(dashboard)

    def text(self, message: str) -> None:
        """Writes a message with a time stamp. Control characters, which names of files can hold, are written as escapes."""
        if not self._writes:
            return
        line = _stamped(message)
        tqdm.write(line, file=self._stream)  # prints above a progress bar
        self._stream.flush()
        if self._text_file is not None:
            self._text_file.append(line)

    def note(self, message: str) -> None:
        """As `text`, once: training and validation data of one folder have the same notes."""
        if message not in self._notes:
            self._notes.add(message)
            self.text(f"note: {message}")

    def text_in_file(self, message: str) -> None:
        """Writes a message that is on the screen already into log.txt alone, as `text` does."""
        if self._text_file is not None:
            self._text_file.append(_stamped(message))

    @contextmanager
    def last_line(self) -> Iterator[None]:
        """Inside this block an exception, which the caller prints, is named in log.txt as what ended the run."""
        try:
            yield
        except BaseException as error:
            with suppress(OSError):  # of a full disk, say, which may be what ended it
                self.text_in_file(f"the run ended: {str(error) or type(error).__name__}")
            raise

    def scalars(self, tag_prefix: str, values: Mapping[str, float], step: int) -> None:
        """Writes a JSON line, `{"time": seconds, "step": 7, "train/loss": 0.5}`, and one point per value on the dashboards.

        NaN and infinity become null in JSON, which has no numbers for them.

        Args:
            tag_prefix: group of the values, such as `train`.
            values: names to numbers.
            step: optimizer step they belong to.
        """
        if self._metrics_file is None:
            return
        numbers = {f"{tag_prefix}/{name}": _number(value) for name, value in values.items()}
        finite = {tag: value if math.isfinite(value) else None for tag, value in numbers.items()}
        self._metrics_file.append(json.dumps({"time": round(time.time(), 3), "step": step, **finite}))
        for dashboard in self._dashboards:
            dashboard.scalars(numbers, step)

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Shows an image on the dashboards.

        Args:
            tag: name of the image.
            image: uint8 `[H, W, 3]`, RGB.
            step: optimizer step it belongs to.

        Raises:
            ValueError: when the array is not uint8 `[H, W, 3]`.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"Image {tag} must be uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}")
        for dashboard in self._dashboards:
            dashboard.image(tag, image, step)

    def config(self, text: str, values: Mapping[str, Any]) -> None:
        """Shows the resolved config on the dashboards; the arguments are those of `Dashboard.config`."""
        for dashboard in self._dashboards:
            dashboard.config(text, values)

    def close(self) -> None:
        """Closes the files; afterwards text still reaches the stream. A second call does nothing."""
        for file in (self._text_file, self._metrics_file, *self._dashboards):
            if file is not None:
                file.close()
        self._text_file = self._metrics_file = None
        self._dashboards = []


def progress(iterable: Iterable[Item], total: int, description: str, *, rank: int) -> Iterator[Item]:
    """Yields the items and, on rank 0, shows progress and remaining time on stderr.

    A bar when stderr is a terminal; otherwise a line about every tenth of the items (at most one per second), and
    after 30 s without one.

    Args:
        iterable: the items.
        total: number of items.
        description: what is being done, such as `evaluate`.
        rank: rank of this process.
    """
    if rank != 0:
        yield from iterable
    elif sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=description, dynamic_ncols=True, leave=False)
    else:
        yield from _progress_lines(iterable, total, description)


def format_duration(seconds: float) -> str:
    """A duration in at most two units: `12.3 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`.

    Raises:
        ValueError: when `seconds` is negative or not finite.
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"A duration is a finite number of seconds, 0 or more; got {seconds}")
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02d} h"
    if hours:
        return f"{hours} h {minute:02d} min"
    return f"{minutes} min {second:02d} s"


def format_table(rows: Sequence[Sequence[str]], *, left: int = 0) -> str:
    """Rows of cells as lines with aligned columns, two spaces apart.

    Args:
        rows: cells, the same number in each row.
        left: how many of the first columns are left-aligned; the others are right-aligned.
    """
    widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padding = [" " * (width - text_width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [
            cell + space if column < left else space + cell
            for column, (cell, space) in enumerate(zip(row, padding, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _progress_lines(iterable: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    started = last_line = time.monotonic()
    last_tenth = 0
    for done, item in enumerate(iterable, start=1):
        yield item
        now, tenth = time.monotonic(), 10 * done // max(total, 1)
        if done == total or now - last_line >= 30 or (tenth > last_tenth and now - last_line >= 1):
            spent = now - started
            left = format_duration(spent * max(total - done, 0) / done)
            print(
                f"{description}: {done}/{total}, {format_duration(spent)} spent, {left} left",
                file=sys.stderr,
                flush=True,
            )
            last_line, last_tenth = now, tenth


class _LineFile:
    """A text file written line by line without a buffer: a killed run leaves at most one partial line."""

    def __init__(self, path: Path, *, is_whole: Callable[[bytes], bool] | None = None) -> None:
        self._path = path
        try:
            _finish_last_line(path, is_whole)
            self._file = path.open("ab", buffering=0)
            self._folder = os.open(path.parent, os.O_RDONLY)
        except OSError as error:
            raise log_error(error, path) from error

    def append(self, line: str) -> None:
        rest = memoryview(f"{line}\n".encode())
        try:
            if not self._path.exists():
                self._begin_again()
            while rest:  # a nearly full disk accepts a part, and the next call raises
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise log_error(error, self._path) from error

    def close(self) -> None:
        self._file.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _begin_again(self) -> None:
        """Create the file again after somebody removed it; raise if the whole folder was removed (VisualDL creates it again)."""
        if not os.path.samestat(os.fstat(self._folder), self._path.parent.stat()):
            raise FileNotFoundError(errno.ENOENT, "the folder was removed")
        self._file.close()
        self._file = self._path.open("ab", buffering=0)


def _finish_last_line(path: Path, is_whole: Callable[[bytes], bool] | None) -> None:
    """Terminate a last line without newline; remove it when `is_whole` says that it is partial."""
    content = path.read_bytes() if path.exists() else b""
    if not content or content.endswith(b"\n"):
        return
    start = content.rfind(b"\n") + 1
    with path.open("r+b") as file:
        if is_whole is not None and not is_whole(content[start:]):
            file.truncate(start)
        else:
            file.seek(len(content))
            file.write(b"\n")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _stamped(message: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable_lines(message)}"


def _number(value: float) -> float:
    return value if isinstance(value, int) else float(value)
