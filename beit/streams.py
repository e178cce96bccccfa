"""What libraries print on stdout and stderr, also in C++, where Python's own streams do not see it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

STDOUT, STDERR = 1, 2
"""Numbers of the open files of every process."""


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what is printed in the block to stderr, also by C++ and by processes that it starts."""
    with _replaced(STDOUT, STDERR), contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def output_to(file: TextIO) -> Iterator[None]:
    """Send what is printed in the block on stdout and stderr to an open file, also by C++ and by processes that it starts."""
    with (
        _replaced(STDOUT, file.fileno()),
        _replaced(STDERR, file.fileno()),
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


@contextlib.contextmanager
def without_line(number: int, text: str) -> Iterator[None]:
    """Drop the lines with a text from what is printed in the block; the others are printed at its end.

    Args:
        number: `STDOUT` or `STDERR`.
        text: part of a line.
    """
    with tempfile.TemporaryFile() as kept:
        try:
            with _replaced(number, kept.fileno()):
                yield
        finally:
            kept.seek(0)
            for line in kept:
                if text.encode() not in line:
                    os.write(number, line)


@contextlib.contextmanager
def _replaced(number: int, other: int) -> Iterator[None]:
    """Let an open file of this process be another one in the block."""
    _flush()
    try:
        saved = os.dup(number)
    except OSError:  # closed, as in some daemons
        yield
        return
    os.dup2(other, number)
    try:
        yield
    finally:
        _flush()
        os.dup2(saved, number)
        os.close(saved)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
