"""PyTorch's zip form, written without PyTorch: `torch.load(path, weights_only=True)` reads it.

The pickle is written opcode by opcode, because Python's pickler imports every class that it names. Source:
torch/serialization.py `_save`, torch/_tensor.py `_reduce_ex_internal`, and files written with torch 2.13.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from beit.containers.torch_files import STORAGE_DTYPES

_FOLDER = "archive"
_STORAGES = {np.dtype(code): name for name, code in STORAGE_DTYPES.items() if name != "torch.BFloat16Storage"}


def write_torch_zip(file: BinaryIO, tree: Any) -> None:
    """Write dicts, lists and tuples of arrays, texts, numbers and None; one array at a time is copied.

    Equal trees give equal bytes.

    Raises:
        ValueError: a value that the form cannot hold.
    """
    content = _Pickle()
    content.add(tree, ())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", pickle.PROTO + b"\x02" + content.opcodes + pickle.STOP)
        _add(archive, "byteorder", b"little")
        for key, array in enumerate(content.arrays):
            native = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            _add(archive, f"data/{key}", native.reshape(-1).view(np.uint8).data)
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(f"{_FOLDER}/{name}")  # dated 1980: the time of writing would change the bytes
    info.file_size = len(data)  # above 2 GiB the header is another
    with archive.open(info, "w") as member:
        member.write(data)


class _Pickle:
    """The opcodes of a tree, and the arrays of its tensors, which become files of the archive."""

    def __init__(self) -> None:
        self.opcodes = bytearray()
        self.arrays: list[np.ndarray] = []

    def add(self, value: Any, path: tuple[str, ...]) -> None:
        """Append a value; `path` is its place in the tree, for messages."""
        if isinstance(value, np.ndarray):
            self._add_tensor(value, path)
        elif isinstance(value, dict):
            self.opcodes += pickle.EMPTY_DICT + pickle.MARK
            for key, entry in value.items():
                self.add(key, path)
                self.add(entry, (*path, str(key)))
            self.opcodes += pickle.SETITEMS
        elif isinstance(value, list):
            self.opcodes += pickle.EMPTY_LIST + pickle.MARK
            self._add_each(value, path)
            self.opcodes += pickle.APPENDS
        elif isinstance(value, tuple):
            self.opcodes += pickle.MARK
            self._add_each(value, path)
            self.opcodes += pickle.TUPLE
        elif isinstance(value, str):
            text = value.encode()
            self.opcodes += pickle.BINUNICODE + len(text).to_bytes(4, "little") + text
        elif value is None or type(value) in (bool, int, float):
            self.opcodes += pickle.dumps(value, protocol=2)[2:-1]  # without version and end mark
        else:
            name = ".".join(path) or "the tree"
            raise ValueError(f"{name} is a {type(value).__name__}; .pth holds arrays, texts and numbers")

    def _add_each(self, values: Iterable[Any], path: tuple[str, ...]) -> None:
        for value in values:
            self.add(value, path)

    def _add_tensor(self, array: np.ndarray, path: tuple[str, ...]) -> None:
        """A call of `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
        storage = _STORAGES.get(array.dtype.newbyteorder("<"))
        if storage is None:
            raise ValueError(f"{'.'.join(path)} has dtype {array.dtype}, which PyTorch does not have")
        self._add_global("torch._utils._rebuild_tensor_v2")
        self.opcodes += pickle.MARK + pickle.MARK
        self.add("storage", path)
        self._add_global(storage)
        self._add_each((str(len(self.arrays)), "cpu", array.size), path)
        self.opcodes += pickle.TUPLE + pickle.BINPERSID
        self.arrays.append(array)
        strides = [int(step) for step in np.cumprod((1, *array.shape[:0:-1]))[::-1]][: array.ndim]
        self._add_each((0, array.shape, tuple(strides), False), path)
        self._add_global("collections.OrderedDict")
        self.opcodes += pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.TUPLE + pickle.REDUCE

    def _add_global(self, name: str) -> None:
        module, _, attribute = name.rpartition(".")
        self.opcodes += pickle.GLOBAL + f"{module}\n{attribute}\n".encode()
