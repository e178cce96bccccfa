"""Warnings of a program: one plain line each, once, on stderr and in the log of a run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from beit.printable import printable

_shown: dict[str, None] = {}
"""Lines that this program has shown, in order."""


def show_as_lines(earlier: Sequence[str] = ()) -> None:
    """From now on, show Python's warnings in this process as `show_warning` does, without file and line of the code.

    Args:
        earlier: lines that the process which started this one has shown.
    """
    _shown.clear()
    _shown.update(dict.fromkeys(earlier))
    warnings.showwarning = _show


def show_warning(message: str) -> None:
    """Print `warning: <message>` on stderr as one line, if this program has not printed it before."""
    line = _line(message)
    if line not in _shown:
        _shown[line] = None
        tqdm.write(line, file=sys.stderr)  # above a progress bar
        sys.stderr.flush()


def shown_warnings() -> list[str]:
    """The lines shown so far."""
    return list(_shown)


@contextmanager
def warnings_to(write: Callable[[str], None]) -> Iterator[None]:
    """In this block also pass each warning on as one line, once; first those that were shown before the block.

    Args:
        write: takes a line.
    """
    written: dict[str, None] = {}
    display = warnings.showwarning

    def pass_on(line: str) -> None:
        if line not in written:
            written[line] = None
            write(line)

    def show(message: Warning | str, *place: Any, **options: Any) -> None:
        pass_on(_line(str(message)))
        display(message, *place, **options)

    for line in _shown:
        pass_on(line)
    warnings.showwarning = show
    try:
        yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = display


def _show(message: Warning | str, *_place: Any, **_options: Any) -> None:
    show_warning(str(message))


def _line(message: str) -> str:
    return f"warning: {printable(' '.join(message.split()))}"
