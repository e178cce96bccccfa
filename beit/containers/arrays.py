"""Shared by the readers of all file forms: the memory budget, bytes read once, shapes, bfloat16."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from beit.containers.errors import CheckpointError

MEMORY_MULTIPLE = 16
"""Reading a file takes at most this many times its size in memory, and `MEMORY_MINIMUM` more.

Real files take once to four times their size: twice where bfloat16 is widened, twice where a view is copied.
"""
MEMORY_MINIMUM = 64 << 20
"""Bytes of memory that reading even the smallest file may take."""
OBJECT_BYTES = 128
"""Charged for each object, entry of a container and reference: an upper bound of their average size."""

CHARACTER_BYTES = 4
"""Charged for each character of a text that is made: one wide character makes all others of a text as wide."""

MAX_NAME = 1024
"""Characters of the name of a tensor, class or function, and of a text that is a key of a dictionary."""
MAX_AXES = 32
"""Largest number of axes of an array: the limit of NumPy 1."""
_MAX_AXIS = 2**63
_AXIS_BYTES = 16  # size and stride


class Budget:
    """The memory that the contents of one file may take.

    Every reader charges each object that it makes and each copy, conversion and decompression before it makes them, so that
    a small file that claims, repeats or compresses a lot is refused instead of filling the memory.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self.left = MEMORY_MULTIPLE * size + MEMORY_MINIMUM

    def charge(self, count: int) -> None:
        """Take `count` bytes.

        Raises:
            CheckpointError: fewer are left.
        """
        self.left -= count
        if self.left < 0:
            raise CheckpointError(
                f"its contents would unfold to many times the size of the file (more than {MEMORY_MULTIPLE} times and "
                f"{MEMORY_MINIMUM >> 20} MiB), which no checkpoint does"
            )

    def charge_array(self, shape: Any, itemsize: int) -> int:
        """Take the bytes of an array whose shape a file states, and return its number of elements.

        Raises:
            CheckpointError: it is not a valid shape, or the array is too large.
        """
        if not isinstance(shape, tuple | list) or len(shape) > MAX_AXES:
            raise CheckpointError(f"an array whose shape is not a list of at most {MAX_AXES} sizes")
        if not all(type(n) is int and 0 <= n < _MAX_AXIS for n in shape):
            raise CheckpointError("an array whose shape has entries that are not sizes")
        count = math.prod(shape)
        self.charge(count * itemsize + len(shape) * _AXIS_BYTES)
        return count


def read_bytes(file: io.BufferedIOBase, count: int, size: int) -> np.ndarray:
    """The next `count` bytes of a file of `size` bytes: writable uint8 array `[count]`, which other arrays can view.

    Raises:
        EOFError: the file ends before; nothing is allocated then, whatever the file claims.
    """
    if not 0 <= count <= size - file.tell():
        raise EOFError(f"{count:,} bytes are announced at {file.tell():,} of {size:,}")
    data = np.empty(count, np.uint8)
    if file.readinto(data.data) != count:
        raise EOFError("it became shorter while it was read")
    return data


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 array of the same shape with exactly the values whose bfloat16 bits are given as uint16."""
    wide = np.empty(bits.shape, np.uint32)
    np.left_shift(bits, 16, out=wide, dtype=np.uint32, casting="unsafe")
    return wide.view(np.float32)
