"""The pickles of Paddle: read as paddle.save and PASSL's hooks write them, written for paddle.load.

What we write ends with one line more, `BEIT-SHA256 <hex>`, the SHA-256 of everything before it. Pickle
readers stop at the pickle's end mark and never see it; this package checks it. SHA-256 because it is the
fastest of hashlib's strong hashes where the processor helps (1.5 GB/s against 0.9 for BLAKE2b, measured).
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.meanings import ALLOWED, rebuild
from beit.checkpoint.rebuild import MAX_DEPTH, MAX_KEY
from beit.checkpoint.unpickle import Unpickler

# Entries that paddle.save adds: the map of names, and the list of arrays cut in slices (protocols 2 and 3,
# above 1 GB). The second name is misspelt in Paddle. Source: paddle/framework/io_utils.py.
NAME_TABLE = "StructuredToParameterName@@"
SLICE_TABLE = "UnpackBigParamInfor@@"

_SEAL = re.compile(rb"\nBEIT-SHA256 ([0-9a-f]{64})\n")
_SEAL_BYTES = 78
_CHUNK = 1 << 20


def read_pickle(
    file: io.BufferedIOBase, size: int, *, exact: bool = False, sealed: bool = False
) -> tuple[Any, dict[str, str]]:
    """Tree and casts of a pickle. `exact` keeps it as pickled, `sealed` asks for the checksum line.

    Raises: `CheckpointError` for a wrong checksum, a missing one if `sealed`, or bytes behind the pickle;
    `UnsafeFileError` from the unpickler.
    """
    end = _sealed_size(file, size)
    if end is None and sealed:
        raise CheckpointError("no checksum at its end: cut short, or not written by this package")
    end = size if end is None else end
    file.seek(0)
    note = Unpickler(file, end, ALLOWED).load()
    if file.tell() != end:
        raise CheckpointError(
            f"{end - file.tell():,} bytes follow the end of the pickle: damaged, or not a checkpoint"
        )
    tree, casts = rebuild(note, end, exact=exact)
    if not exact and isinstance(tree, dict):
        _join_slices(tree)
        tree.pop(NAME_TABLE, None)
    return tree, casts


def write_pickle(file: BinaryIO, tree: Any) -> None:
    """Write `tree` as a protocol 4 pickle and the checksum line.

    Raises: `ValueError` for a value that is neither dict, list, tuple, array, number, text, bytes nor None.
    """
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        for start in range(0, len(data), _CHUNK):  # pieces stay in the cache between hashing and writing
            digest.update(data[start : start + _CHUNK])
            file.write(data[start : start + _CHUNK])

    put(b"\x80\x04")
    _put_value(put, tree, "")
    put(b".")
    file.write(b"\nBEIT-SHA256 " + digest.hexdigest().encode() + b"\n")


def _sealed_size(file: io.BufferedIOBase, size: int) -> int | None:
    """Size without the checksum line, once it is compared; None if there is no such line."""
    end = size - _SEAL_BYTES
    if end < 0:
        return None
    file.seek(end)
    seal = _SEAL.fullmatch(file.read(_SEAL_BYTES))
    if seal is None:
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
    if digest.hexdigest().encode() != seal.group(1):
        raise CheckpointError(
            "checksum mismatch: changed or damaged after writing; use an earlier checkpoint"
        )
    return end


def _join_slices(tree: dict[Any, Any]) -> None:
    for name, info in tree.pop(SLICE_TABLE, {}).items():
        parts = [tree.pop(part) for part in info["slices"]]
        tree[name] = np.concatenate(parts).reshape(info["OriginShape"])


# Written by hand rather than by pickle.dump for two reasons: NumPy 2 would name modules that NumPy 1 does not
# have, and each array would be held twice.


def _put_value(put: Callable[[bytes | memoryview], None], value: Any, path: str, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"{path[:80]} is nested deeper than {MAX_DEPTH} levels; a checkpoint is plain data")
    if isinstance(value, dict):
        put(b"}(")
        for key, entry in value.items():
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < MAX_KEY):
                raise ValueError(
                    f"{path or 'the tree'} has the key {key!r:.80}; keys are text or small integers"
                )
            _put_value(put, key, path, depth + 1)
            _put_value(put, entry, f"{path}.{key}" if path else str(key), depth + 1)
        put(b"u")
    elif isinstance(value, (list, tuple)):
        put(b"(")
        for index, entry in enumerate(value):
            _put_value(put, entry, f"{path}.{index}" if path else str(index), depth + 1)
        put(b"t" if isinstance(value, tuple) else b"l")
    elif isinstance(value, (np.ndarray, np.generic)):
        _put_array(put, value, path)
    else:
        _put_scalar(put, value, path)


def _put_scalar(put: Callable[[bytes | memoryview], None], value: Any, path: str) -> None:
    if value is None or value is True or value is False:
        put({None: b"N", True: b"\x88", False: b"\x89"}[value])
    elif type(value) is int:
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        put(
            (b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<i", len(data)))
            + data
        )
    elif type(value) is float:
        put(b"G" + struct.pack(">d", value))
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        put(b"X" + struct.pack("<I", len(data)) + data)
    elif isinstance(value, bytes):
        _put_bytes(put, memoryview(value))
    else:
        raise ValueError(
            f"{path or 'the tree'} is a {type(value).__name__}; a checkpoint holds dict, list, tuple, NumPy "
            "arrays, numbers, text, bytes and None (tensors: .numpy() first)"
        )


def _put_bytes(put: Callable[[bytes | memoryview], None], data: memoryview) -> None:
    put(b"\x8e" + struct.pack("<Q", len(data)) if len(data) >= 2**32 else b"B" + struct.pack("<I", len(data)))
    put(data)


def _put_array(put: Callable[[bytes | memoryview], None], value: np.ndarray | np.generic, path: str) -> None:
    """The notes NumPy's own reducers write, with the module names that NumPy 1 and 2 both read."""
    if value.dtype.kind not in "fiubc" or value.dtype.itemsize > 16 or value.dtype.char in "gG":
        raise ValueError(f"{path} has dtype {value.dtype}; a checkpoint holds arrays of numbers")
    little = value.dtype.newbyteorder("<")
    order = b"<" if value.dtype.itemsize > 1 else b"|"
    dtype = (
        b"cnumpy\ndtype\n(X"
        + struct.pack("<I", len(little.str) - 1)
        + little.str[1:].encode()
        + b"\x89\x88tR"
    )
    dtype += b"(K\x03X\x01\0\0\0" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    data = np.ascontiguousarray(value, little).reshape(-1).view(np.uint8).data
    if isinstance(value, np.generic):
        put(b"cnumpy.core.multiarray\nscalar\n(" + dtype)
        _put_bytes(put, data)
        put(b"tR")
        return
    put(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\x01btR(K\x01(")
    for count in value.shape:
        _put_scalar(put, count, path)
    put(b"t" + dtype + b"\x89")
    _put_bytes(put, data)
    put(b"tb")
