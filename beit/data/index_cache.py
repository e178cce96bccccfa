"""Tables of contents of large archives, kept in the cache folder: they are read once for all ranks and all runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from beit.files import cache_folder, lock, replacing

Table = dict[str, np.ndarray]

_LARGE = 2**30  # bytes; the tables of smaller archives are read in about a second
# What NumPy and zipfile raise for damaged files. RuntimeError: marked as encrypted, or as compressed in another way;
# OSError: an offset before the beginning of the file; AttributeError, TypeError: an array instead of an archive.
_DAMAGE = (
    ValueError, EOFError, OSError, RuntimeError, AttributeError, TypeError, KeyError, SyntaxError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_FORMAT = 1  # of the tables; a change of their content needs another number


def remembered(files: Sequence[Path], kind: str, make: Callable[[], Table]) -> Table:
    """The table that `make` returns, or a stored one if path, size and time of each file have not changed since.

    Of the processes of a machine that need the same table, one makes it and the others wait. Where the cache folder
    cannot be written, each process makes its own.

    Args:
        files: on which the table depends.
        kind: name of the table's content; tables of different kinds are stored separately.
        make: computes the table from the files.
    """
    stats = [(str(path.resolve()), stat.st_size, stat.st_mtime_ns) for path in files if (stat := path.stat())]
    if sum(size for _, size, _ in stats) < _LARGE:
        return make()
    key = hashlib.sha256(os.fsencode(repr((_FORMAT, kind, stats)))).hexdigest()[:32]
    target = cache_folder() / "indexes" / f"{key}.npz"
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(target.with_suffix(".lock").open("ab"))
        except OSError:
            return make()
        lock(handle.fileno(), wait=True)
        with contextlib.suppress(OSError, ValueError):  # absent or damaged
            return read_table(target)
        table = make()
        with contextlib.suppress(OSError), replacing(target) as out:  # no space: the next run makes it again
            np.savez(out, **table)  # type: ignore[arg-type]  # NumPy's annotation has no room for names
        return table


def read_table(path: Path) -> Table:
    """The arrays of an `.npz` file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not an `.npz` file, or it is damaged.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except _DAMAGE as error:
            raise ValueError(f"{path} is not an .npz file, or it is damaged") from error


def joined(names: Sequence[str]) -> np.ndarray:
    """Names as one array of bytes; `names_of` splits them again. They have no zero bytes."""
    return np.frombuffer(b"\0".join(map(os.fsencode, names)), np.uint8)


def names_of(array: np.ndarray) -> list[str]:
    """The names in an array of `joined`."""
    return [os.fsdecode(name) for name in array.tobytes().split(b"\0")] if len(array) else []
