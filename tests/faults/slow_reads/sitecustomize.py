"""Imported by every Python process of a fault test: opening a file blocks while `<file>.hangs` exists.

A named pipe would block too, but only regular files are opened as images.
"""

import builtins
import os
import time

_open = builtins.open


def _open_when_readable(file, *arguments, **options):
    while isinstance(file, str | os.PathLike) and os.path.exists(f"{os.fspath(file)}.hangs"):  # noqa: PTH110
        time.sleep(0.1)
    return _open(file, *arguments, **options)


builtins.open = _open_when_readable
