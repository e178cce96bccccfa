"""The complete list of names that a checkpoint may mention, and what each means when a pickle calls it.

None is imported: the meanings are functions of this package over plain data. Source: the reducers of NumPy
(numpy/_core/src/multiarray/methods.c, array_reduce; arrayscalars), of torch (torch/_utils.py, `_rebuild_*`)
and what paddle.save writes (paddle/framework/io.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pickletools import genops
from typing import Any

import numpy as np

from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.rebuild import STORAGE_DTYPES, Meaning, Rebuilder, Storage, raw_bytes
from beit.checkpoint.unpickle import Global, Record

_SCRIPT_CLASSES, _SCRIPT_HELPERS = "__torch__", "torch.jit._pickle"
_PLAIN_DTYPE = re.compile(r"[<>=|]?([fiu][1248]|b1|c8|c16)")


def rebuild(
    note: Any,
    size: int,
    *,
    storage: Callable[[Storage], np.ndarray] | None = None,
    exact: bool = False,
    script: frozenset[Global] = frozenset(),
) -> tuple[Any, dict[str, str]]:
    """Value of an unpickled note, and the casts by dotted name. Arguments: see `Rebuilder` and `script_names`."""
    own: dict[Global, Meaning] = {
        name: _first if name.module == _SCRIPT_HELPERS else _script_object for name in script
    }
    rebuilder = Rebuilder(_MEANINGS | own, size, storage, exact)
    return rebuilder.value(note), rebuilder.dtypes_cast


def script_names(pickle: bytes) -> frozenset[Global]:
    """Classes and typed lists that the pickle of a TorchScript program names: data of this one file, not code."""
    names = (str(argument).split(" ", 1) for op, argument, _ in genops(pickle) if op.name == "GLOBAL")
    found = (Global(module, name) for module, name in names)
    return frozenset(
        name
        for name in found
        if name.module == _SCRIPT_HELPERS or name.module.split(".")[0] == _SCRIPT_CLASSES
    )


def _dtype(note: Any) -> np.dtype:
    """NumPy dtype of a note like ('f4', False, True) with state (3, '<', ...)."""
    if not isinstance(note, Record) or note.callee != Global("numpy", "dtype"):
        raise CheckpointError("an array without a dtype")
    name = note.args[0]
    if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
        raise CheckpointError(f"an array of dtype {name!r}, which is not of numbers")
    big_endian = note.state is not None and note.state[1] == ">"
    return np.dtype(name).newbyteorder(">" if big_endian else "<")


def _ndarray(rebuilder: Rebuilder, note: Record, path: str) -> np.ndarray:
    if note.state is None:
        raise CheckpointError(f"array {path} has no content")
    shape, dtype, fortran, data = note.state[-4:]
    return rebuilder.array(data, _dtype(dtype), shape, bool(fortran), note)


def _from_buffer(rebuilder: Rebuilder, note: Record, path: str) -> np.ndarray:
    data, dtype, shape, order = note.args
    return rebuilder.array(data, _dtype(dtype), shape, order == "F", note)


def _scalar(rebuilder: Rebuilder, note: Record, path: str) -> Any:
    dtype = _dtype(note.args[0])
    return np.frombuffer(raw_bytes(note.args[1]), dtype, 1)[0]


def _encoded(rebuilder: Rebuilder, note: Record, path: str) -> bytes:
    return bytes(raw_bytes(note))


def _namespace(rebuilder: Rebuilder, note: Record, path: str) -> dict[Any, Any]:
    return rebuilder.mapping(note.state, path) if note.state else {}


def _partial(rebuilder: Rebuilder, note: Record, path: str) -> dict[str, Any]:
    function, args, keywords = note.state[:3] if note.state else (note.args[0], note.args[1:], {})
    parts = {"function": function, "args": tuple(args), "keywords": keywords}
    return {name: rebuilder.value(part, path) for name, part in parts.items()}


def _first(rebuilder: Rebuilder, note: Record, path: str) -> Any:
    """What the first argument means: a parameter's tensor, a version's text, a number's value."""
    return rebuilder.value(note.args[0], path)


def _typed(rebuilder: Rebuilder, note: Record, path: str) -> Any:
    """torch._tensor._rebuild_from_type_v2, a tensor with attributes: (function, type, arguments, state)."""
    note.callee, note.args = note.args[0], note.args[2]
    return rebuilder.call(note, path)


def _script_object(rebuilder: Rebuilder, note: Record, path: str) -> dict[str, Any]:
    """Flat state dict of a TorchScript module: the tensors among its attributes, then those of its submodules."""
    tensors: dict[str, Any] = {}
    for name, item in rebuilder.pairs(note.state):
        value = rebuilder.value(item, f"{path}.{name}" if path else str(name))
        if isinstance(value, np.ndarray):
            tensors[str(name)] = value
        elif isinstance(value, dict):
            tensors |= {f"{name}.{key}": tensor for key, tensor in value.items()}
    return tensors


def _listed(note: Record) -> list[Any]:
    return [*(note.args[0] if note.args else ()), *note.listed]


def _list(rebuilder: Rebuilder, note: Record, path: str) -> list[Any]:
    return rebuilder.value(_listed(note), path)


def _tuple(rebuilder: Rebuilder, note: Record, path: str) -> Any:
    return rebuilder.value(tuple(_listed(note)), path)


def _set(rebuilder: Rebuilder, note: Record, path: str) -> set[Any]:
    return {rebuilder.key(entry) for entry in _listed(note)}


def _named(module: str, *names: str) -> list[Global]:
    return [Global(module, name) for name in names]


_BUILTIN = ("__builtin__", "builtins")  # Python 2's name is what protocol 2 writes
_NUMPY_CORE = ("numpy.core", "numpy._core")  # NumPy 1 and 2
_TENSORS = _named("torch._utils", "_rebuild_tensor", "_rebuild_tensor_v2")
_MODULES = [
    *_named("dall_e.encoder", "Encoder", "EncoderBlock"),
    *_named("dall_e.decoder", "Decoder", "DecoderBlock"),
    *_named("dall_e.utils", "Conv2d"),
    *_named("torch.nn.modules.container", "Sequential"),
    *_named("torch.nn.modules.activation", "ReLU"),
    *_named("torch.nn.modules.pooling", "MaxPool2d"),
    *_named("torch.nn.modules.linear", "Identity"),
    *_named("torch.nn.modules.upsampling", "Upsample"),
]
_TORCH_DTYPES = _named(
    "torch", "float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"
)

_MEANINGS: dict[Global, Meaning] = {
    **{Global(core + ".multiarray", "_reconstruct"): _ndarray for core in _NUMPY_CORE},
    **{Global(core + ".multiarray", "scalar"): _scalar for core in _NUMPY_CORE},
    **{Global(core + ".numeric", "_frombuffer"): _from_buffer for core in _NUMPY_CORE},
    Global("numpy", "dtype"): lambda rebuilder, note, path: str(_dtype(note)),
    **dict.fromkeys(
        [Global("_codecs", "encode"), *(Global(module, "bytes") for module in _BUILTIN)], _encoded
    ),
    Global("collections", "OrderedDict"): Rebuilder.mapping,
    Global("collections", "defaultdict"): Rebuilder.mapping,
    Global("argparse", "Namespace"): _namespace,
    Global("functools", "partial"): _partial,
    **{Global(module, "dict"): Rebuilder.mapping for module in _BUILTIN},
    **{Global(module, "list"): _list for module in _BUILTIN},
    **{Global(module, "tuple"): _tuple for module in _BUILTIN},
    **{Global(module, name): _set for module in _BUILTIN for name in ("set", "frozenset")},
    **{
        Global(module, name): _first
        for module in _BUILTIN
        for name in ("int", "float", "bool", "str", "bytearray")
    },
    **dict.fromkeys(_TENSORS, Rebuilder.tensor),
    **dict.fromkeys(_named("torch._utils", "_rebuild_parameter", "_rebuild_parameter_with_state"), _first),
    **dict.fromkeys(_named("torch.nn.parameter", "Parameter"), _first),
    Global("torch._tensor", "_rebuild_from_type_v2"): _typed,
    Global("torch", "Size"): _tuple,
    Global("torch", "device"): lambda rebuilder, note, path: ":".join(str(part) for part in note.args),
    Global("torch.torch_version", "TorchVersion"): _first,
    **dict.fromkeys(_MODULES, Rebuilder.module),
}

ALLOWED = frozenset(
    [*_MEANINGS, *_TORCH_DTYPES, *_named("numpy", "ndarray"), *_named("torch", "Tensor", *STORAGE_DTYPES)]
)
