"""Read any checkpoint file as plain data, and write one atomically.

No function here imports Paddle or PyTorch, and none runs code that a file contains.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beit.containers.errors import CheckpointError, shown
from beit.containers.paddle_files import NAME_TABLE, read_pickle, read_training_state, write_pickle
from beit.containers.pickle_globals import StandIn
from beit.containers.pickles import Pickled
from beit.containers.recognize import container_of
from beit.containers.safetensors_files import accepts, read_safetensors, write_safetensors
from beit.containers.torch_files import read_legacy, read_zip
from beit.containers.torch_writing import write_torch_zip
from beit.files import replacing

_CHUNK = 1 << 20

# What damaged bytes raise in the readers below. The readers check what matters for safety. For the rest the file decides
# what is a list and what a number: a wrong type there is an error of the file and not of this program.
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,  # also RecursionError and NotImplementedError
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Contents:
    """What a checkpoint file holds.

    Args:
        tree: nested dicts, lists, tuples, numbers, text and NumPy arrays, with the names and shapes of the file.
        container: "pickle", "torch zip", "torch legacy" or "safetensors".
        dtypes_cast: dotted name -> the dtype in the file, for arrays that NumPy cannot hold as stored (bfloat16 becomes
            float32, exactly).
        metadata: of safetensors, and what `write` adds to `.pdparams`.
        left_out: classes of objects that were replaced by an empty `StandIn`, and kinds of dictionary entries that were
            dropped.
    """

    tree: Any
    container: str
    dtypes_cast: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def read(path: str | os.PathLike[str]) -> Contents:
    """The contents of a `.pdparams`, `.pth`, `.pkl` or `.safetensors` file, recognized by its first bytes.

    Arrays are float16, float32, ... as stored, writable, read once. A pickled torch module becomes its flat state dict.
    In pickles of Paddle the table of names is dropped, (name, array) becomes the array, and uint16 is bfloat16. A checksum
    of this package is compared. Objects of other classes become empty. Memory and time are bounded by the size of the file:
    see `arrays.MEMORY_MULTIPLE` and `arrays.MEMORY_MINIMUM`.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafeFileError: the file names a function that could run code.
        CheckpointError: it is damaged, something else, or would fill the memory: one line, what it is and what to do.
        OSError: no permission, a failing disk.
    """

    def contents(file: io.BufferedIOBase, size: int) -> Contents:
        container = container_of(file, size)
        if container == "safetensors":
            tensors, casts, metadata = read_safetensors(file, size)
            return Contents(tensors, container, casts, metadata)
        tree, casts, left_out, texts = _READERS[container](file, size)
        if not isinstance(tree, dict):
            raise CheckpointError(f"a {container} of a {type(tree).__name__}, not of named weights")
        if isinstance(tree, StandIn) and not tree:
            raise CheckpointError(
                f"a {container} of an object of the class {shown(tree.name)}, not of named weights; have the program that "
                "made the file save its state dict"
            )
        return Contents(tree, container, casts, dict(texts), left_out)

    return _opened(path, contents)


def write(path: str | os.PathLike[str], tree: Any, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tree`, whole or not at all.

    As `.pdparams` or `.pdopt` (paddle.load reads them), `.pth` (torch.load reads it) or `.safetensors`.

    Args:
        tree: nested dicts, lists, tuples of NumPy arrays, numbers, text; for `.safetensors` a flat dict of arrays.
        metadata: texts by name, for `.safetensors`, and for `.pdparams`, where no other program reads them.
    Raises:
        ValueError: another extension, or values that the form cannot hold.
        OSError: as `files.replacing`.
    """
    suffix = Path(path).suffix
    if suffix not in (".pdparams", ".pdopt", ".pth", ".safetensors"):
        raise ValueError(
            f"cannot write {path}: the extension must be .pdparams, .pdopt, .pth or .safetensors"
        )
    if metadata and suffix not in (".pdparams", ".safetensors"):
        raise ValueError(f"cannot write {path}: only .safetensors and .pdparams hold metadata")
    if suffix == ".safetensors":
        _check_flat(path, tree, metadata)
    is_state = isinstance(tree, dict) and all(isinstance(array, np.ndarray) for array in tree.values())
    with replacing(path) as file:
        if suffix == ".safetensors":
            write_safetensors(file, tree, metadata)
        elif suffix == ".pth":
            write_torch_zip(file, tree)
        else:
            # paddle.save marks a flat state dict by a table of its names.
            marked = {**tree, NAME_TABLE: {name: name for name in tree}} if tree and is_state else tree
            write_pickle(file, marked, metadata)


def write_checkpoint(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a training checkpoint, whole or not at all, that `read_checkpoint` returns unchanged.

    It ends with its SHA-256; paddle.load reads it too.

    Raises:
        ValueError: a value that is not plain data.
        OSError: as `files.replacing`.
    """
    with replacing(path) as file:
        write_pickle(file, tree)


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """The tree given to `write_checkpoint`, once its SHA-256 is compared.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: as `read`; also when the checksum is wrong or missing.
    """

    def tree(file: io.BufferedIOBase, size: int) -> Any:
        container_of(file, size)
        return read_training_state(file, size)

    return _opened(path, tree)


def nonfinite_names(state: Mapping[str, Any]) -> list[str]:
    """Names of the floating-point arrays in a flat `state` that hold a NaN or an infinity, in order."""
    return [name for name, array in state.items() if isinstance(array, np.ndarray) and not _is_finite(array)]


_READERS: dict[str, Callable[[io.BufferedIOBase, int], Pickled]] = {
    "pickle": read_pickle,
    "torch zip": read_zip,
    "torch legacy": read_legacy,
}


def _opened(path: str | os.PathLike[str], reader: Callable[[io.BufferedIOBase, int], Any]) -> Any:
    """What `reader` returns for the open file; each fault of the file becomes one line that begins with its path."""
    if Path(path).is_dir():
        raise CheckpointError(f"{path}: a directory; name a file in it, such as model.safetensors")
    if Path(path).exists() and not Path(path).is_file():  # reading a FIFO or a terminal would wait for ever
        raise CheckpointError(f"{path}: neither a file nor a folder")
    try:
        with Path(path).open("rb") as file:
            return reader(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; check the path, or download it first") from error
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error
    except EOFError as error:
        raise CheckpointError(f"{path}: cut short ({error}); copy or download it again") from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: the memory of this machine is too small to read it") from error
    except _DAMAGED as error:
        reason = shown(" ".join(f"{type(error).__name__}: {error}".split()))
        raise CheckpointError(
            f"{path}: damaged, or no checkpoint ({reason}); copy or download it again"
        ) from error


def _check_flat(path: str | os.PathLike[str], tree: Any, metadata: Mapping[str, str] | None) -> None:
    if not isinstance(tree, dict):
        raise ValueError(
            f"cannot write {path}: .safetensors holds a flat dict of arrays, not a {type(tree).__name__}"
        )
    for name, value in tree.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray) or not accepts(value):
            kind = getattr(value, "dtype", type(value).__name__)
            raise ValueError(
                f"cannot write {path}: {name} is {kind}; .safetensors holds a flat dict of number arrays"
            )
    for name, text in (metadata or {}).items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"cannot write {path}: metadata {name} must be text, not {type(text).__name__}")


def _is_finite(array: np.ndarray) -> bool:
    if array.dtype.kind not in "fc":
        return True
    flat = array.reshape(-1)
    return all(np.isfinite(flat[start : start + _CHUNK]).all() for start in range(0, flat.size, _CHUNK))
