"""Pickles, torch zip files and torch legacy files, written byte by byte: tests need neither torch nor importable names."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
    "uint16": "BFloat16Storage",  # the bits
}


@dataclass
class Name:
    module: str
    name: str


@dataclass
class Call:
    module: str
    name: str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] | None = None


@dataclass
class Persistent:
    value: Any


@dataclass
class Tensor:
    """A tensor of torch: a view of `storage` (1-D) that has a `key` in the file."""

    storage: np.ndarray
    key: str
    shape: tuple[int, ...]
    offset: int = 0
    strides: tuple[int, ...] | None = None


def body(value: Any) -> bytes:
    """Opcodes that push `value`."""
    if isinstance(value, bytes) and value.startswith(b"raw:"):
        return value[4:]
    if isinstance(value, Name):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        code = body(Name(value.module, value.name)) + body(value.args) + b"R"
        if value.items is not None:
            code += b"(" + b"".join(body(key) + body(entry) for key, entry in value.items.items()) + b"u"
        return code if value.state is None else code + body(value.state) + b"b"
    if isinstance(value, Persistent):
        return body(value.value) + b"Q"
    if isinstance(value, Tensor):
        return body(_tensor_call(value))
    if isinstance(value, dict):
        return b"}(" + b"".join(body(key) + body(entry) for key, entry in value.items()) + b"u"
    if isinstance(value, (tuple, list)):
        return b"(" + b"".join(body(entry) for entry in value) + (b"t" if isinstance(value, tuple) else b"l")
    return pickle.dumps(value, 3)[2:-1]


def dumps(value: Any) -> bytes:
    return b"\x80\x02" + body(value) + b"."


def tensor(array: np.ndarray, key: str) -> Tensor:
    return Tensor(np.ascontiguousarray(array).reshape(-1), key, array.shape)


def _tensor_call(value: Tensor) -> Call:
    strides = value.strides
    if strides is None:
        strides = tuple(int(np.prod(value.shape[axis + 1 :])) for axis in range(len(value.shape)))
    kind = Name("torch", STORAGES[value.storage.dtype.name])
    storage = ("storage", kind, value.key, "cpu", value.storage.size)
    hooks = Call("collections", "OrderedDict", ())
    return Call(
        "torch._utils",
        "_rebuild_tensor_v2",
        (Persistent(storage), value.offset, value.shape, strides, False, hooks),
    )


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Call):
        return tensors_in([*value.args, value.state, value.items])
    if isinstance(value, dict):
        return tensors_in(list(value.values()))
    return (
        [found for entry in value for found in tensors_in(entry)] if isinstance(value, (list, tuple)) else []
    )


def torch_zip(
    value: Any, *, compression: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", value if isinstance(value, bytes) else dumps(value))
        big = (extra or {}).get("archive/byteorder") == b"big"
        for key, storage in {found.key: found.storage for found in tensors_in(value)}.items():
            archive.writestr(f"archive/data/{key}", (storage.byteswap() if big else storage).tobytes())
        archive.writestr("archive/version", b"3\n")
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return file.getvalue()


def torch_legacy(value: Any) -> bytes:
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    header = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(system, 2)
    storages = {found.key: found.storage for found in tensors_in(value)}
    code = value if isinstance(value, bytes) else dumps(value)
    # The legacy persistent id has a sixth entry, the view: None.
    for found in tensors_in(value):
        old = body(
            (
                "storage",
                Name("torch", STORAGES[found.storage.dtype.name]),
                found.key,
                "cpu",
                found.storage.size,
            )
        )
        code = code.replace(old, old[:-1] + b"Nt")
    data = b"".join(
        struct.pack("<q", storages[key].size) + storages[key].tobytes() for key in sorted(storages)
    )
    return header + code + pickle.dumps(sorted(storages), 2) + data


def module(cls: tuple[str, str], parameters: dict[str, Any], children: dict[str, Any]) -> Call:
    """A pickled torch module: made without arguments, then given its attributes."""

    def ordered(items: dict[str, Any]) -> Call:
        return Call("collections", "OrderedDict", (), items=items)

    wrapped = {
        name: Call("torch._utils", "_rebuild_parameter", (value, True, ordered({})))
        for name, value in parameters.items()
    }
    state = {
        "training": False,
        "_parameters": ordered(wrapped),
        "_buffers": ordered({}),
        "_modules": ordered(children),
    }
    return Call(*cls, (), state=state)
