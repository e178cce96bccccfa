"""Memory in which workers hand over batches: a batch sent through the pool's pipe is copied four times, this one never.

Each slot is an anonymous file of the main process: no name that a killed process could leave behind, and nothing in
`/dev/shm`. Workers open it through `/proc`, so this is for Linux; elsewhere batches go through the pipe.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]

_ALIGNMENT = 64  # bytes


class Layout(NamedTuple):
    """Where the arrays of a batch are in their slot: dtype, shape, and offset in bytes of each."""

    arrays: dict[str, tuple[str, tuple[int, ...], int]]


class Slots:
    """The slots of a pool of workers: as many as batches are in use at a time."""

    def __init__(self) -> None:
        self._files: list[int] = []
        self._free: list[int] = []
        self._maps: dict[int, mmap.mmap] = {}

    def take(self) -> str | None:
        """The path of an unused slot; None on systems without anonymous files (`memfd_create`)."""
        if not hasattr(os, "memfd_create"):
            return None
        if not self._free:
            self._files.append(os.memfd_create("beit-batch"))
            self._free.append(self._files[-1])
        return f"/proc/{os.getpid()}/fd/{self._free.pop()}"

    def give_back(self, path: str | None) -> None:
        """Mark a slot as unused."""
        if path is not None:
            self._free.append(_file_of(path))

    def read(self, path: str, layout: Layout) -> Arrays:
        """The arrays in the slot, without a copy. The slot is given back when the last of them is gone."""
        file = _file_of(path)
        size = os.fstat(file).st_size
        if file not in self._maps or len(self._maps[file]) < size:
            self._maps[file] = mmap.mmap(file, size)
        memory = np.frombuffer(self._maps[file], np.uint8)
        weakref.finalize(memory, self.give_back, path)
        return dict(_views(memory, layout))

    def close(self) -> None:
        """Close the files. No worker may be left that writes to them; arrays in use stay valid."""
        for file in self._files:
            os.close(file)
        self._files, self._free, self._maps = [], [], {}


def write(path: str, items: Sequence[Arrays]) -> Layout:
    """Stack arrays of the same name along a new leading axis, in a slot of the main process.

    Raises:
        OSError: this system does not let a process open a file of another one, or files have a limit that is too small.
    """
    layout, size = Layout({}), 0
    for name, first in items[0].items():
        layout.arrays[name] = first.dtype.str, (len(items), *first.shape), size
        size += -(-first.nbytes * len(items) // _ALIGNMENT) * _ALIGNMENT
    memory = np.frombuffer(_map(path, size), np.uint8)
    for name, stacked in _views(memory, layout):
        np.stack([item[name] for item in items], out=stacked)
    return layout


_maps: dict[int, mmap.mmap] = {}
"""The slots that this worker has mapped, by inode: file descriptors are reused."""


def _map(path: str, size: int) -> mmap.mmap:
    with Path(path).open("r+b") as file:
        status = os.fstat(file.fileno())
        if status.st_size < size:
            os.ftruncate(file.fileno(), size)
        if status.st_ino not in _maps or len(_maps[status.st_ino]) < size:
            _maps[status.st_ino] = mmap.mmap(file.fileno(), 0)
    return _maps[status.st_ino]


def _views(memory: np.ndarray, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    for name, (dtype, shape, offset) in layout.arrays.items():
        size = np.dtype(dtype).itemsize * int(np.prod(shape))
        yield name, memory[offset : offset + size].view(dtype).reshape(shape)


def _file_of(path: str) -> int:
    return int(path.rpartition("/")[2])
