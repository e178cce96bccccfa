"""The pickles of Paddle: read as paddle.save and PASSL's hooks write them, written for paddle.load.

What this package writes ends with one more line, `BEIT-SHA256 <hex>`, the SHA-256 of everything before it; weights have a
line `BEIT-METADATA <JSON>` before that. Pickle readers stop at the end mark of the pickle and never read these lines; this
package compares the one and reads the other. SHA-256 because it is the fastest of
hashlib's strong hashes where the processor supports it (1.5 GB/s against 0.9 for BLAKE2b, measured).
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from beit.containers.arrays import CHARACTER_BYTES, MAX_NAME, Budget
from beit.containers.errors import CheckpointError
from beit.containers.pickle_globals import MAX_KEY, is_number
from beit.containers.pickles import MAX_DEPTH, Pickled, Unpickler

# Entries that paddle.save adds: the map of names, and the list of arrays cut in slices (protocols 2 and 3,
# above 1 GB). The second name is misspelt in Paddle. Source: paddle/framework/io_utils.py.
NAME_TABLE = "StructuredToParameterName@@"
SLICE_TABLE = "UnpackBigParamInfor@@"

_METADATA = b"\nBEIT-METADATA "
_CHECKSUM = re.compile(rb"\nBEIT-SHA256 ([0-9a-f]{64})\n")
_CHECKSUM_BYTES = 78
_CHUNK = 1 << 20
_MAX_ITEM_BYTES = 16


def read_pickle(file: io.BufferedIOBase, size: int) -> Pickled:
    """Content of a pickle of Paddle: (name, array) is the array, uint16 is bfloat16, slices are joined.

    Raises:
        CheckpointError: a wrong checksum, bytes behind the pickle, or too large for the budget.
        UnsafeFileError: from the unpickler.
    """
    budget = Budget(size)
    content = _load(file, _end_of_pickle(file, size) or size, budget, paddle=True)
    if isinstance(content.value, dict):
        _join_slices(content.value, budget)
        content.value.pop(NAME_TABLE, None)
    return content


def read_training_state(file: io.BufferedIOBase, size: int) -> Any:
    """What was given to `write_pickle`.

    Raises:
        CheckpointError: as `read_pickle`; also when there is no checksum.
    """
    end = _end_of_pickle(file, size)
    if end is None:
        raise CheckpointError("no checksum at its end: cut short, or not written by this package")
    content = _load(file, end, Budget(size), paddle=False)
    if content.left_out:
        raise CheckpointError("it holds objects that this package does not write: not a training state of it")
    return content.value


def _load(file: io.BufferedIOBase, end: int, budget: Budget, *, paddle: bool) -> Pickled:
    file.seek(0)
    content = Unpickler(file, end, budget, paddle=paddle).read()
    left = end - file.tell()
    if not left:
        return content
    if left < len(_METADATA) or file.read(len(_METADATA)) != _METADATA:
        raise CheckpointError(f"{left:,} bytes follow the end of the pickle: damaged, or not a checkpoint")
    budget.charge(CHARACTER_BYTES * left)
    return content._replace(metadata=_read_metadata(file.read(left - len(_METADATA))))


def _read_metadata(line: bytes) -> dict[str, str]:
    """The texts of a line of metadata.

    Raises:
        CheckpointError: it is not what `write_pickle` writes.
    """
    try:
        texts = json.loads(line)
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise CheckpointError("the metadata behind the pickle are damaged")
    return texts


def _end_of_pickle(file: io.BufferedIOBase, size: int) -> int | None:
    """Size without the line of the checksum, which is compared; None if there is no such line."""
    end = size - _CHECKSUM_BYTES
    if end < 0:
        return None
    file.seek(end)
    line = _CHECKSUM.fullmatch(file.read(_CHECKSUM_BYTES))
    if line is None:
        return None
    file.seek(0)
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    left = end
    while left:
        count = file.readinto(buffer[: min(left, _CHUNK)])
        if not count:
            raise EOFError("the file became shorter while it was read")
        digest.update(buffer[:count])
        left -= count
    if digest.hexdigest().encode() != line.group(1):
        raise CheckpointError(
            "checksum mismatch: changed or damaged after writing; use an earlier checkpoint"
        )
    return end


def _join_slices(tree: dict[Any, Any], budget: Budget) -> None:
    for name, info in tree.pop(SLICE_TABLE, {}).items():
        parts = [tree.pop(part) for part in info["slices"]]
        budget.charge(_MAX_ITEM_BYTES * sum(part.size for part in parts))
        tree[name] = np.concatenate(parts).reshape(info["OriginShape"])


def write_pickle(file: BinaryIO, tree: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tree` as a protocol 4 pickle, the line of its metadata, and that of its checksum; one array at a time is copied.

    Equal trees give equal bytes.

    Raises:
        ValueError: a value that is neither dict, list, tuple, array, number, text, bytes nor None.
    """
    plain = _plain(tree, ())
    output = _ChecksumWriter(file)
    pickler = _Pickler(output, protocol=4)
    # Without memo: it would keep every copy of an array until the end, and its references depend on which of the equal
    # texts of the tree are one object.
    pickler.fast = True
    pickler.dump(plain)
    if metadata:
        output.write(_METADATA + json.dumps(dict(metadata)).encode())
    file.write(b"\nBEIT-SHA256 " + output.digest.hexdigest().encode() + b"\n")


class _ChecksumWriter:
    """Passes everything on to `file` and computes the digest of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK):  # pieces stay in the cache between hashing and writing
            self.digest.update(view[start : start + _CHUNK])
            self._file.write(view[start : start + _CHUNK])
        return len(view)


class _Pickler(pickle.Pickler):
    """Writes arrays and NumPy's numbers under names that NumPy 1 and 2 both have, unlike NumPy's own reducers."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            native = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
            return np.ndarray, ((0,),), native.__reduce__()[2]  # an empty array, which then gets this content
        if isinstance(value, np.generic):
            return np.dtype(value.dtype.str).type, (value.item(),)
        if value is np.bool_:
            return "bool_"  # NumPy 2 calls it numpy.bool, which NumPy 1 does not have
        return NotImplemented


def _plain(value: Any, path: tuple[str, ...]) -> Any:
    """`value` made of the types that can be written, with the same arrays.

    Raises:
        ValueError: another type, or nested too deep.
    """
    name = ".".join(path) or "the tree"
    if len(path) > MAX_DEPTH:
        raise ValueError(f"{name[:80]} is nested deeper than {MAX_DEPTH} levels; a checkpoint is plain data")
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, str) and len(key) <= MAX_NAME or isinstance(key, int) and abs(key) < MAX_KEY:
                continue
            raise ValueError(f"{name} has the key {key!r:.80}; keys are short texts or small integers")
        return {key: _plain(entry, (*path, str(key))) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [_plain(entry, (*path, str(index))) for index, entry in enumerate(value)]
        return tuple(entries) if isinstance(value, tuple) else entries
    if isinstance(value, np.ndarray | np.generic):
        if not is_number(value.dtype) or value.dtype.itemsize > _MAX_ITEM_BYTES or value.dtype.char in "gG":
            raise ValueError(f"{name} has dtype {value.dtype}; a checkpoint holds arrays of numbers")
        return value
    if isinstance(value, str):
        return str(value)
    if value is None or type(value) in (bool, int, float, bytes):
        return value
    raise ValueError(
        f"{name} is a {type(value).__name__}; a checkpoint holds dict, list, tuple, NumPy "
        "arrays, numbers, text, bytes and None (tensors: .numpy() first)"
    )
