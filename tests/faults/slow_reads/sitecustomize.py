"""Imported by every Python process of a fault test: opening an image blocks while `<file>.hangs` exists.

A named pipe would block too, but only regular files are opened as images.
"""

import io
import os
import time


class _FileWhenReadable(io.FileIO):
    def __init__(self, file, *arguments, **options):
        while isinstance(file, str | os.PathLike) and os.path.exists(f"{os.fspath(file)}.hangs"):  # noqa: PTH110
            time.sleep(0.1)
        super().__init__(file, *arguments, **options)


io.FileIO = _FileWhenReadable  # which `beit.data.images` opens images with
