"""The safetensors form: a JSON table of names, dtypes, shapes and places, then the bytes.

Not read with the package `safetensors`, whose NumPy side has no bfloat16 and which holds each array twice. Source: the
format section of the safetensors README.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from beit.containers.arrays import MAX_AXES, MAX_NAME, OBJECT_BYTES, Budget, read_bytes, widen_bfloat16
from beit.containers.errors import CheckpointError, shown

MAX_HEADER = 100_000_000  # the limit of the safetensors package
_ALIGNMENT = 8
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items() if name != "BF16"}


def read_safetensors(
    file: io.BufferedIOBase, size: int
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str]]:
    """Tensors by name, casts, and the metadata of the file.

    Raises:
        CheckpointError: the header is not a table of tensors, its tensors overlap, leave holes or pass the end, or the file
            is too large.
    """
    budget = Budget(size)
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER, size - 8):
        raise CheckpointError(f"cut short or damaged: its header claims {length:,} bytes of {size:,}")
    header = file.read(length)
    # Each object, list, key and entry of the JSON follows one of these bytes.
    budget.charge(OBJECT_BYTES * sum(header.count(byte) for byte in (b"{", b"[", b":", b",")))
    table = json.loads(header.decode("utf-8"))
    if not isinstance(table, dict):
        raise CheckpointError("its header is not a table of tensors")
    metadata = table.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CheckpointError("its metadata is not a table of texts")
    tensors: dict[str, np.ndarray] = {}
    casts: dict[str, str] = {}
    expected = 0
    for name, entry in sorted(table.items(), key=lambda item: _span(*item)):
        begin, end = _span(name, entry)
        if begin != expected or end < begin or end > size - 8 - length:
            raise CheckpointError(
                f"cut short or damaged: tensor {shown(name)} overlaps another, leaves a hole or passes the end"
            )
        expected = end
        tensors[name] = _read_tensor(file, name, entry, end - begin, size)
        if entry["dtype"] == "BF16":
            tensors[name], casts[name] = widen_bfloat16(tensors[name]), "bfloat16"
    if expected != size - 8 - length:
        raise CheckpointError(f"{size - 8 - length - expected:,} bytes behind the last tensor: damaged")
    return {name: tensors[name] for name in table}, casts, metadata


def write_safetensors(
    file: BinaryIO, state: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None
) -> None:
    """Write `state` and `metadata`; every array must have a dtype that `accepts` allows."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    # Widest dtype first, then by name: so each tensor starts at a multiple of its item size.
    order = sorted(state, key=lambda name: (-state[name].dtype.itemsize, name))
    for name in order:
        array = state[name]
        table[name] = {
            "dtype": _NAMES[array.dtype.newbyteorder("<")],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    header = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    header += b" " * (-len(header) % _ALIGNMENT)
    file.write(len(header).to_bytes(8, "little") + header)
    for name in order:
        array = np.ascontiguousarray(state[name], state[name].dtype.newbyteorder("<"))
        file.write(array.reshape(-1).view(np.uint8).data)


def accepts(array: np.ndarray) -> bool:
    """Whether safetensors has a name for the dtype of the array."""
    return array.dtype.newbyteorder("<") in _NAMES


def _span(name: str, entry: Any) -> tuple[int, int]:
    if len(name) > MAX_NAME:
        raise CheckpointError(
            f"tensor {shown(name)} has a name of {len(name):,} characters; {MAX_NAME:,} are read"
        )
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"tensor {shown(name)} is not described by dtype, shape and data_offsets")
    begin, end = entry["data_offsets"]
    if type(begin) is not int or type(end) is not int or begin < 0:
        raise CheckpointError(f"tensor {shown(name)} has no place in the file")
    return begin, end


def _read_tensor(
    file: io.BufferedIOBase, name: str, entry: dict[str, Any], count: int, size: int
) -> np.ndarray:
    dtype, shape = entry["dtype"], entry["shape"]
    if type(dtype) is not str or dtype not in _DTYPES:
        found = shown(dtype) if type(dtype) is str else type(dtype).__name__
        raise CheckpointError(f"tensor {shown(name)} has dtype {found}; known are {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES:
        raise CheckpointError(
            f"tensor {shown(name)} has a shape that is not a list of at most {MAX_AXES} sizes"
        )
    if not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise CheckpointError(f"tensor {shown(name)} has shape {shown(str(shape))}")
    if math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != count:
        raise CheckpointError(f"tensor {shown(name)} of shape {shape} and dtype {dtype} has {count:,} bytes")
    array = read_bytes(file, count, size).view(_DTYPES[dtype]).reshape(shape)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
