"""From what a pickle notes down (`unpickle.Record`) to arrays, dicts and numbers, within bounds.

Which notes have a meaning, and which, is said in `meanings.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from beit.checkpoint.arrays import widen_bfloat16
from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.unpickle import Global, Record

# Bounds for files made to explode: shared lists unfold, strided tensors repeat their data. Real files stay far
# below: some ten thousand values, ten levels, twice their bytes (bfloat16 widened).
MAX_VALUES = 5_000_000
MAX_DEPTH = 100
MAX_EXPANSION = 16
MAX_KEY = 2**60
SLACK_BYTES = 1 << 20
MAX_AXES = 32  # NumPy 1's limit

# torch storage class -> dtype of its elements; bfloat16 has none in NumPy and arrives as its bits.
STORAGE_DTYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}

Meaning = Callable[["Rebuilder", Record, str], Any]


@dataclass(frozen=True)
class Storage:
    """A torch storage as a pickle names it: class name, key of its bytes, number of elements."""

    kind: str
    key: str
    numel: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(STORAGE_DTYPES[self.kind])


class Rebuilder:
    """Turns unpickled notes into values, once for each note, within bounds that follow from the file's size.

    Args: `size` - bytes the file holds; `storage` - returns the elements `[numel]` of a torch storage, None
    where there are none; `exact` - keep 2-tuples and uint16 as they are; otherwise (name, array) is read as
    the array and uint16 as bfloat16, which is what paddle.save means by them.
    """

    def __init__(
        self,
        meanings: Mapping[Global, Meaning],
        size: int,
        storage: Callable[[Storage], np.ndarray] | None,
        exact: bool,
    ) -> None:
        self._meanings = meanings
        self._bytes_left = MAX_EXPANSION * size + SLACK_BYTES
        self._values_left = MAX_VALUES
        self._storage = storage
        self._exact = exact
        self._made: dict[int, Any] = {}
        self._bfloat16: set[int] = set()
        self._depth = 0
        self.dtypes_cast: dict[str, str] = {}

    def value(self, item: Any, path: str = "") -> Any:
        """The meaning of one unpickled item; `path` is its dotted name in the tree.

        Raises: `CheckpointError` when the item has no meaning or passes a bound.
        """
        self._values_left -= 1
        if self._values_left < 0 or self._depth > MAX_DEPTH:
            raise CheckpointError("nested or repeated without end, which no checkpoint is")
        self._depth += 1
        try:
            return self._value(item, path)
        finally:
            self._depth -= 1

    def _value(self, item: Any, path: str) -> Any:
        if isinstance(item, Record):
            if id(item) not in self._made:
                self._made[id(item)] = self.call(item, path)
            if id(item) in self._bfloat16:
                self.dtypes_cast[path] = "bfloat16"
            return self._made[id(item)]
        if isinstance(item, Global):
            return str(item)
        if isinstance(item, tuple):
            return self._tuple(item, path)
        if isinstance(item, list):
            return [self.value(entry, _join(path, index)) for index, entry in enumerate(item)]
        if isinstance(item, np.ndarray):
            return item.tobytes()  # a long byte string that no array claimed
        if isinstance(item, Storage):
            return self._elements(item)
        return item  # None, bool, int, float, str, bytes

    def call(self, note: Record, path: str) -> Any:
        """What the noted call means, made anew."""
        meaning = self._meanings.get(note.callee)
        if meaning is None:
            raise CheckpointError(f"a call of {note.callee}, which is no function")
        return meaning(self, note, path)

    def key(self, item: Any) -> Any:
        """A value that is safe to hash: numbers and tuples can be made to collide, and filling takes hours."""
        key = self.value(item)
        if isinstance(key, (str, bytes)) or key is None or (isinstance(key, int) and abs(key) < MAX_KEY):
            return key
        raise CheckpointError(f"a dictionary key or set member of type {type(key).__name__}")

    def _tuple(self, item: tuple[Any, ...], path: str) -> Any:
        if not self._exact and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], Record):
            array = self.value(item[1], path)
            return array if isinstance(array, np.ndarray) else (item[0], array)
        return tuple(self.value(entry, _join(path, index)) for index, entry in enumerate(item))

    def array(self, data: Any, dtype: np.dtype, shape: Any, fortran: bool, note: Record) -> np.ndarray:
        """NumPy array of `shape` over `data`, in the machine's byte order, writable."""
        raw = raw_bytes(data)
        self._spend(_count(shape) * dtype.itemsize)
        if len(raw) != _count(shape) * dtype.itemsize:
            raise CheckpointError(f"an array {list(shape)} of {dtype} has {len(raw):,} bytes")
        result = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
        if not dtype.isnative:
            result = result.astype(dtype.newbyteorder("="))
        if not self._exact and dtype.kind == "u" and dtype.itemsize == 2:
            self._bfloat16.add(id(note))
            return widen_bfloat16(result)
        return result if result.flags.writeable else result.copy()

    def tensor(self, note: Record, path: str) -> np.ndarray:
        """The torch tensor of a `_rebuild_tensor*` note: (storage, offset, size, stride, ...)."""
        storage, offset, size, stride = note.args[:4]
        size, stride = self.value(size), self.value(stride)
        if not isinstance(storage, Storage) or not all(isinstance(step, int) for step in (offset, *stride)):
            raise CheckpointError(f"tensor {path} has no storage or no place in it")
        self._spend(_count(size) * storage.dtype.itemsize)
        elements = self._elements(storage)
        if _count(size) == 0:
            result = np.empty(size, elements.dtype)
        else:
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            if min(offset, *stride, 0) < 0 or last >= elements.size:
                raise CheckpointError(f"tensor {path} reaches beyond its storage of {elements.size} elements")
            strides = [step * elements.itemsize for step in stride]
            result = np.lib.stride_tricks.as_strided(elements[offset:], size, strides)
        if storage.kind == "BFloat16Storage":
            self._bfloat16.add(id(note))
            return widen_bfloat16(result)
        return result if result.flags.c_contiguous else result.copy()

    def module(self, note: Record, path: str) -> dict[str, Any]:
        """Flat state dict of a pickled torch module: parameters and buffers, then those of its submodules."""
        state = note.state[0] if isinstance(note.state, tuple) else note.state
        parts = {name: part for name, part in self.pairs(state) if isinstance(name, str)}
        tensors = {}
        for group in ("_parameters", "_buffers"):
            for name, tensor in self.pairs(parts.get(group)):
                if tensor is not None:
                    tensors[name] = self.value(tensor, _join(path, name))
        for name, child in self.pairs(parts.get("_modules")):
            for key, tensor in (self.value(child, _join(path, name)) or {}).items():
                tensors[f"{name}.{key}"] = tensor
        return tensors

    def mapping(self, note: Record, path: str) -> dict[Any, Any]:
        """dict, OrderedDict or defaultdict; attributes set on it (torch's `_metadata`) are left out."""
        return {self.key(key): self.value(entry, _join(path, key)) for key, entry in self.pairs(note)}

    def pairs(self, item: Any) -> list[tuple[Any, Any]]:
        """Keys and values that a note of a dictionary was given."""
        if not isinstance(item, Record):
            raise CheckpointError(f"a {type(item).__name__} where a dictionary belongs")
        given = item.args[0] if item.args and isinstance(item.args[0], list) else []
        return [*((key, entry) for key, entry in given), *item.mapped]

    def _elements(self, storage: Storage) -> np.ndarray:
        if self._storage is None:
            raise CheckpointError("a torch tensor outside of a torch file")
        return self._storage(storage)

    def _spend(self, count: int) -> None:
        self._bytes_left -= count
        if self._bytes_left < 0:
            raise CheckpointError("its arrays would unfold to many times the size of the file")


def raw_bytes(item: Any) -> bytes | np.ndarray:
    """The bytes behind an array, in each of the ways that pickles write bytes."""
    if isinstance(item, Record) and item.callee.name in ("encode", "bytes"):
        # Protocol 2 has no bytes: Python 3 writes _codecs.encode(text, "latin1"), and bytes() for none.
        item = item.args[0] if item.args else b""
    if isinstance(item, str):
        return item.encode("latin-1")
    if not isinstance(item, (bytes, np.ndarray)):
        raise CheckpointError("an array without bytes")
    return item


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _count(shape: Any) -> int:
    if not isinstance(shape, tuple) or len(shape) > MAX_AXES:
        raise CheckpointError(f"an array with shape {str(shape)[:80]}")
    if not all(isinstance(n, int) and 0 <= n < 2**48 for n in shape):
        raise CheckpointError(f"an array with shape {str(shape)[:80]}")
    return math.prod(shape)
