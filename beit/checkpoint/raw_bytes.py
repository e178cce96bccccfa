"""Bytes from a file, once, into memory that arrays can view."""

from __future__ import annotations

import io

import numpy as np


def read_raw(file: io.BufferedIOBase, count: int, size: int) -> np.ndarray:
    """The next `count` bytes, uint8 `[count]`, writable, of a file of `size` bytes.

    Raises: `EOFError` when the file ends before; nothing is allocated then, whatever the file claims.
    """
    if not 0 <= count <= size - file.tell():
        raise EOFError(f"{count:,} bytes are announced at {file.tell():,} of {size:,}")
    data = np.empty(count, np.uint8)
    if file.readinto(data.data) != count:
        raise EOFError("it became shorter while it was read")
    return data
