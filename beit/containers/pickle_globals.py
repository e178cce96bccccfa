"""The classes and functions that pickles name: which are refused, and what this package builds in place of the others.

None of them is imported. Source: the reducers of NumPy (numpy/_core/src/multiarray/methods.c, `array_reduce`; arrayscalars) and of
Python's own types.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from beit.containers.arrays import CHARACTER_BYTES, MAX_NAME, OBJECT_BYTES, Budget
from beit.containers.errors import CheckpointError, UnsafeFileError, shown

Constructor = Callable[..., Any]
"""Called with the unpickler and the arguments in the pickle; returns what the named function would have made."""
MAX_KEY = 2**60
"""Integer keys of dictionaries are smaller than this."""


class Global(str):
    """The dotted name of a class or function."""


class StandIn(dict[Any, Any]):
    """An object of a class that is not known here; what its constructor was given is dropped.

    It holds the items that the pickle set on it (as on a subclass of dict) and, if its state is that of a torch module, the
    tensors of that state by dotted name.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


# Packages that hold functions which run code or open files. Of them, only names of plain data may appear in a checkpoint;
# names of all other packages become stand-ins.
_GUARDED = sys.stdlib_module_names | {"numpy", "torch", "paddle"}
# Of other Python versions.
_GUARDED |= {"__builtin__", "cPickle", "commands", "copy_reg", "distutils", "imp", "popen2"}
_GUARDED |= {"cffi", "cloudpickle", "dill", "IPython", "joblib", "pip", "pkg_resources", "setuptools"}
_NUMBERS = ("float16", "float32", "float64", "complex64", "complex128") + tuple(
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
)
_PUBLIC = r"[A-Za-z]\w*"
_PLAIN_DATA = re.compile(
    "|".join(
        (
            r"(?:__builtin__|builtins)\.(?:bool|bytearray|bytes|complex|dict|Ellipsis|float|frozenset|getattr|int|list|long"
            r"|object|range|set|slice|str|tuple|type|unicode|xrange|[A-Z]\w*(?:Error|Exception|Warning))",
            rf"(?:collections|datetime|decimal|enum|fractions|pathlib|pathlib\._local|typing|uuid)\.{_PUBLIC}",
            r"_codecs\.encode|argparse\.Namespace|functools\.partial|random\.Random|types\.SimpleNamespace",
            r"numpy\.(?:core|_core)\.(?:multiarray\.(?:_reconstruct|scalar)|numeric\._frombuffer)",
            rf"numpy\.(?:ndarray|dtype|bool_?|{'|'.join(_NUMBERS)}|dtypes\.{_PUBLIC}|random\.[\w.]+)",
            r"torch\.(?:Size|Tensor|device|dtype|Generator|strided|\w+_format|\w+Storage|storage\.\w+Storage)",
            r"torch\.(?:bool|bfloat16|(?:float|complex|q?u?int)\d\w*)",
            r"torch\.(?:_utils\._rebuild\w*|_tensor\._rebuild\w*|torch_version\.TorchVersion|serialization\._get_layout)",
            r"(?:torch\.(?:nn|optim|amp|cuda\.amp|jit\._pickle)|paddle\.(?:nn|optimizer))\.[\w.]+",
        )
    )
)


def check_name(module: str, name: str) -> Global:
    """The name of a class or function.

    Raises:
        UnsafeFileError: it could run code when another program loads the file.
    """
    found = f"{module}.{name}"
    is_guarded = module.partition(".")[0] in _GUARDED
    # An attribute of an attribute can lead to every module that is imported somewhere.
    is_code = is_guarded and ("." in name or not _PLAIN_DATA.fullmatch(found))
    if is_code or any(part.startswith("__") and part.endswith("__") for part in name.split(".")):
        raise _unsafe(found)
    return Global(found)


def _unsafe(name: str) -> UnsafeFileError:
    return UnsafeFileError(
        f"refused: it names {shown(name)}, which no known checkpoint needs and which could run code when "
        "loaded; nothing was run. Get the weights from their publisher, best as .safetensors, or have the "
        "program that made the file save the plain state dict"
    )


class Guard:
    """What a pickle may name, hash and allocate.

    Args:
        budget: memory that the value of the pickle may take.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        # Classes whose objects became stand-ins, and kinds of entries that were dropped.
        self.left_out: dict[str, None] = {}

    def name(self, module: Any, name: Any) -> Global:
        """A class or function that the pickle names; see `check_name`."""
        if type(module) is not str or type(name) is not str or len(module) + len(name) > MAX_NAME:
            raise CheckpointError("a class or function whose name is no short text")
        self.budget.charge(CHARACTER_BYTES * (len(module) + len(name)))
        return check_name(module, name)

    def is_key(self, key: Any, entries: int) -> bool:
        """Whether `key` may be hashed, in a container of `entries`; entries with other keys are left out."""
        if isinstance(key, str | bytes):
            usual = len(key) <= MAX_NAME
        else:
            usual = key is None or (isinstance(key, int) and abs(key) < MAX_KEY)
            if usual and key is not None and abs(key) > entries:
                # Chosen integers collide, so that each is compared with the ones before it; 0, 1, 2, ... never do.
                self.budget.charge(entries // 4)
        if not usual:
            self.left_out[f"dictionary entries whose key is a {type(key).__name__}, or long"] = None
        return usual

    def stand_in(self, name: str) -> StandIn:
        """An empty object in place of one whose class is not known here; the class is listed in `left_out`."""
        self.left_out[name] = None
        return StandIn(name)


# Python's own types


def first_argument(guard: Guard, value: Any = None, *_: Any) -> Any:
    """The argument itself: the value of a number or text, the tensor of a parameter."""
    return value


def make_list(guard: Guard, items: Any = (), *_: Any) -> list[Any]:
    """A list made of a list or tuple."""
    if not isinstance(items, list | tuple):
        raise CheckpointError(f"a list made of a {type(items).__name__}")
    guard.budget.charge(OBJECT_BYTES * (1 + len(items)))
    return list(items)


def make_tuple(guard: Guard, *items: Any) -> tuple[Any, ...]:
    """A tuple made of a list or tuple."""
    return tuple(make_list(guard, *items))


def make_set(guard: Guard, *items: Any) -> set[Any]:
    """A set made of a list or tuple, without items that may not be hashed."""
    listed = make_list(guard, *items)
    return {item for item in listed if guard.is_key(item, len(listed))}


def _dict(guard: Guard, given: Any = (), *_: Any) -> dict[Any, Any]:
    """dict, OrderedDict, defaultdict or Counter, made of another dictionary, of pairs, or of a function for missing keys."""
    items = given.items() if isinstance(given, dict) else given if isinstance(given, list) else ()
    guard.budget.charge(OBJECT_BYTES * len(items))
    return {key: value for key, value in items if guard.is_key(key, len(items))}


def _complex(guard: Guard, real: Any, imaginary: Any) -> complex:
    if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
        raise CheckpointError("a complex number that is not made of numbers")
    return complex(real, imaginary)


def _attribute(guard: Guard, owner: Any, name: Any = None) -> Global:
    """Protocols 2 and 3 name the method of a class by getattr(class, name)."""
    if not isinstance(owner, Global) or type(name) is not str:
        raise _unsafe("builtins.getattr")
    return guard.name(str(owner), name)


def _encode(guard: Guard, text: Any = "", *_: Any) -> bytes:
    return _bytes(guard, text)


def _bytes(guard: Guard, data: Any) -> bytes:
    """Protocol 2 has no bytes: Python 3 writes them as text, each character one byte."""
    if isinstance(data, str):
        guard.budget.charge(len(data))
        return data.encode("latin-1")
    if not isinstance(data, bytes):
        raise CheckpointError("an array without bytes")
    return data


def set_state(guard: Guard, target: StandIn, state: Any) -> None:
    """Keep the attributes of a namespace, and the tensors of a torch module and its submodules by dotted name."""
    state = state[0] if isinstance(state, tuple) and state else state
    if not isinstance(state, dict):
        return
    if target.name == "argparse.Namespace":
        guard.budget.charge(OBJECT_BYTES * len(state))
        target.update(state)
    elif "_parameters" in state and "_modules" in state:
        for group in (state["_parameters"], state.get("_buffers"), state["_modules"]):
            _keep_tensors(guard, target, group)
    elif target.name.startswith("__torch__."):  # TorchScript: parameters and submodules are attributes
        _keep_tensors(guard, target, state)
    else:
        return
    guard.left_out.pop(target.name, None)


def _keep_tensors(guard: Guard, target: StandIn, group: Any) -> None:
    for name, entry in list(group.items()) if isinstance(group, dict) else []:
        found = {str(name): entry}
        if isinstance(entry, StandIn):
            characters = sum(len(str(name)) + len(str(key)) for key in entry)
            guard.budget.charge(OBJECT_BYTES * len(entry) + CHARACTER_BYTES * characters)
            found = {f"{name}.{key}": tensor for key, tensor in entry.items()}
        target.update((key, tensor) for key, tensor in found.items() if isinstance(tensor, np.ndarray))


# NumPy

_NUMBER_DTYPE = re.compile(r"[<>=|]?([fiu][1248]|b1|c8|c16)")
_UNFILLED = "V"  # kind of an array that has no content yet


def is_number(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype hold booleans, integers, real or complex numbers."""
    return dtype.kind in "fiubc"


def fill_array(guard: Guard, array: np.ndarray, shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
    """Give `array` its content, as NumPy does when it loads a pickle: it views large `data`, which is never copied."""
    if array.dtype.kind != _UNFILLED:
        raise CheckpointError("an array that is filled twice")
    if isinstance(dtype, StandIn):
        return  # texts or objects: `Unpickler.read` replaces the array
    if not isinstance(dtype, np.dtype):
        raise CheckpointError("an array without a dtype")
    count = guard.budget.charge_array(shape, dtype.itemsize)
    raw = _bytes(guard, data)
    if len(raw) != count * dtype.itemsize:
        raise CheckpointError(f"an array {list(shape)} of {dtype} has {len(raw):,} bytes")
    array.__setstate__((1, tuple(shape), dtype, bool(fortran), raw))  # type: ignore[arg-type]


def _array(guard: Guard, *_: Any) -> np.ndarray:
    """An array that the pickle fills afterwards."""
    return np.empty(0, f"{_UNFILLED}1")


def _array_of_buffer(guard: Guard, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    array = _array(guard)
    fill_array(guard, array, shape, dtype, type(order) is str and order == "F", data)
    return array


def _dtype(guard: Guard, name: Any, *_: Any) -> np.dtype | StandIn:
    if type(name) is not str or not _NUMBER_DTYPE.fullmatch(name):
        return guard.stand_in("numpy.dtype")
    return np.dtype(name, copy=True)  # the pickle can change the byte order of the copy


def set_byte_order(dtype: np.dtype, state: tuple[Any, ...]) -> None:
    """Give `dtype` the byte order of its pickled state."""
    if type(state[1]) is str and state[1] == ">":
        dtype.__setstate__((3, ">", None, None, None, -1, -1, 0))  # type: ignore[attr-defined]


def _scalar(guard: Guard, dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype):
        return guard.stand_in("numpy.generic")
    return np.frombuffer(_bytes(guard, data), dtype, 1)[0]


def _scalar_of(name: str) -> Constructor:
    make = np.dtype(name).type

    def scalar(guard: Guard, value: Any = 0) -> Any:
        if not isinstance(value, int | float | complex):
            raise CheckpointError(f"a {name} made of a {type(value).__name__}")
        return make(value)

    return scalar


_BUILTINS: Mapping[str, Constructor] = {
    **dict.fromkeys(("bool", "bytearray", "float", "int", "str"), first_argument),
    **dict.fromkeys(("set", "frozenset"), make_set),
    "bytes": _encode,
    "complex": _complex,
    "dict": _dict,
    "getattr": _attribute,
    "list": make_list,
    "tuple": make_tuple,
}
CONSTRUCTORS: Mapping[str, Constructor] = {
    **{f"builtins.{name}": constructor for name, constructor in _BUILTINS.items()},
    **{f"__builtin__.{name}": constructor for name, constructor in _BUILTINS.items()},  # of protocol 2
    **dict.fromkeys((f"collections.{name}" for name in ("OrderedDict", "defaultdict", "Counter")), _dict),
    "_codecs.encode": _encode,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},  # NumPy 1 and 2
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array_of_buffer for core in ("core", "_core")},
    "numpy.ndarray": _array,
    "numpy.dtype": _dtype,
    **{f"numpy.{name}": _scalar_of(name) for name in _NUMBERS},
    **dict.fromkeys(("numpy.bool", "numpy.bool_"), _scalar_of("bool")),
}
"""Functions by the name under which pickles call them, for all kinds of files; `torch_files` has those of torch."""
