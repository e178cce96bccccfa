"""PyTorch's two file forms, read without PyTorch: the zip archive (since 1.6) and the older pickles in a row.

Source: torch/serialization.py (`_save`, `_legacy_save`), torch/_utils.py (`_rebuild_*`) and files written with torch 2.13.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from beit.containers.arrays import CHARACTER_BYTES, MAX_NAME, Budget, read_bytes
from beit.containers.errors import CheckpointError, shown
from beit.containers.pickle_globals import (
    CONSTRUCTORS,
    Constructor,
    Global,
    first_argument,
    is_number,
    make_tuple,
)
from beit.containers.pickles import Pickled, Unpickler

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number that every legacy file begins with: torch/serialization.py, MAGIC_NUMBER."""
_LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and of the extra field

# Class of a storage -> dtype of its elements; NumPy has no bfloat16, which arrives as its bits.
STORAGE_DTYPES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
    "torch.ComplexFloatStorage": "c8",
    "torch.ComplexDoubleStorage": "c16",
}


def read_zip(file: io.BufferedIOBase, size: int) -> Pickled:
    """Content of a zip file: `<name>/data.pkl`, and `<name>/data/<key>` for each storage.

    A TorchScript program becomes the flat state dict of its module; its code is not read.

    Raises:
        CheckpointError: a damaged archive, a wrong checksum, another kind of archive, or too large for the budget.
        UnsafeFileError: from the unpickler.
    """
    budget = Budget(size)
    # One tensor is read while the checksums of others are computed.
    with ThreadPoolExecutor(max_workers=2) as pool:
        archive = _Archive(file, size, budget, pool)
        big_endian = archive.has("byteorder") and archive.member("byteorder").tobytes() == b"big"
        pickle = archive.member("data.pkl").tobytes()
        archive.verify()

        def read_storage(key: str) -> np.ndarray:
            data = archive.member(f"data/{key}")
            if big_endian:
                archive.verify()  # before the bytes are swapped
            return data

        storages = _Storages(read_storage, big_endian)
        content = Unpickler(io.BytesIO(pickle), len(pickle), budget, _CONSTRUCTORS, storages.load).read()
        archive.verify()
    return content


def read_legacy(file: io.BufferedIOBase, size: int) -> Pickled:
    """Content of a legacy file: pickles of magic, version, system, value and keys of storages; then the storages.

    Raises:
        CheckpointError: a damaged file, an unknown version, or too large for the budget.
        UnsafeFileError: from the unpickler.
    """
    budget = Budget(size)
    _, version, system = (Unpickler(file, size, budget).load() for _ in range(3))
    if type(version) is not int or version != _LEGACY_PROTOCOL:
        found = version if type(version) is int else f"of type {type(version).__name__}"
        raise CheckpointError(f"version {found} of PyTorch's older file form; {_LEGACY_PROTOCOL} is known")
    # The pickle comes before the storages that it names, so it is read twice: first for their types.
    itemsizes: dict[str, int] = {}

    def note_type(name: Any) -> Any:
        if _is_module(name):
            return name[1]
        key, dtype, _ = _storage(name)
        if len(name) == 6 and name[5] is not None:
            raise CheckpointError("storages in storages (torch before 0.4); save it again with a newer torch")
        itemsizes[key] = dtype.itemsize
        return None

    start = file.tell()
    Unpickler(file, size, Budget(size), {}, note_type).load()
    end = file.tell()
    places = _find_storages(file, size, Unpickler(file, size, budget).load(), itemsizes)

    def read_storage(key: str) -> np.ndarray:
        if key not in places:
            raise CheckpointError(f"storage {shown(key)} is missing: the file is incomplete")
        place, count = places[key]
        file.seek(place)
        budget.charge(count)
        return read_bytes(file, count, size)

    file.seek(start)
    budget.charge(end - start)
    pickle = io.BytesIO(file.read(end - start))
    storages = _Storages(read_storage, big_endian=not system["little_endian"])
    return Unpickler(pickle, end - start, budget, _CONSTRUCTORS, storages.load).read()


def _find_storages(
    file: io.BufferedIOBase, size: int, keys: Any, itemsizes: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """Start and length in bytes of each storage; the file is at the first of them, and they reach to its end."""
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if type(key) is not str or key not in itemsizes:
            raise CheckpointError("a storage that no tensor uses")
        count = int.from_bytes(file.read(8), "little", signed=True) * itemsizes[key]
        places[key] = (file.tell(), count)
        if not 0 <= count <= size - file.tell():
            raise EOFError(f"a storage of {count:,} bytes is announced at {file.tell():,} of {size:,}")
        file.seek(count, io.SEEK_CUR)
    if file.tell() != size:
        raise CheckpointError(f"{size - file.tell():,} bytes follow the last storage: damaged")
    return places


class _Storages:
    """The elements of the storages of a file; several tensors can be views of one.

    Args:
        read: returns the bytes of a storage, by its key.
        big_endian: their byte order.
    """

    def __init__(self, read: Callable[[str], np.ndarray], big_endian: bool) -> None:
        self._read, self._big_endian = read, big_endian
        self._elements: dict[str, np.ndarray] = {}

    def load(self, name: Any) -> Any:
        """What a persistent id stands for: the elements of a storage, or the class of a pickled module."""
        if _is_module(name):
            return name[1]
        key, dtype, numel = _storage(name)
        if key not in self._elements:
            data = self._read(key)
            if data.size != numel * dtype.itemsize:
                raise CheckpointError(f"storage {shown(key)} of {numel} elements has {data.size} bytes")
            self._elements[key] = data.view(dtype)
            if self._big_endian:
                self._elements[key].byteswap(inplace=True)
        elements = self._elements[key]
        if elements.dtype != dtype or elements.size != numel:
            raise CheckpointError(f"storage {shown(key)} has two types or sizes, which torch does not write")
        return elements


def _is_module(name: Any) -> bool:
    """Whether a persistent id is ("module", class, file, source text)."""
    return isinstance(name, tuple) and len(name) == 4 and isinstance(name[1], Global)


def _storage(name: Any) -> tuple[str, np.dtype, int]:
    """Key, dtype and number of elements of a persistent id ("storage", class, key, location, number, ...)."""
    is_storage = isinstance(name, tuple) and 5 <= len(name) <= 6 and type(name[0]) is str
    if not is_storage or name[0] != "storage":
        raise CheckpointError("a persistent id that is not a torch storage")
    kind, key, numel = name[1], name[2], name[4]
    if not isinstance(kind, Global) or kind not in STORAGE_DTYPES:
        raise CheckpointError(f"a torch storage of class {shown(kind) if isinstance(kind, Global) else '?'}")
    if type(key) is not str or len(key) > MAX_NAME or type(numel) is not int:
        raise CheckpointError("a torch storage without key and size")
    return key, np.dtype(STORAGE_DTYPES[kind]), numel


def _tensor(reader: Unpickler, elements: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A tensor: a view of its storage, copied where its elements are not contiguous."""
    if not isinstance(elements, np.ndarray) or elements.ndim != 1 or not is_number(elements.dtype):
        raise CheckpointError("a tensor that has no storage")
    count = reader.budget.charge_array(size, elements.itemsize)
    if not isinstance(stride, tuple) or not all(type(step) is int for step in (offset, *stride)):
        raise CheckpointError("a tensor that has a storage, but no place in it")
    if count == 0:
        tensor = np.empty(size, elements.dtype)
    else:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if min(offset, *stride, 0) < 0 or last >= elements.size:
            raise CheckpointError(
                f"a tensor {list(size)} reaches beyond its storage of {elements.size} elements"
            )
        strides = [step * elements.itemsize for step in stride]
        tensor = np.lib.stride_tricks.as_strided(elements[offset:], size, strides)
    if elements.dtype == np.uint16:
        return reader.float32_of(tensor)
    return tensor if tensor.flags.c_contiguous else tensor.copy()


def _typed_tensor(reader: Unpickler, function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes, which are left out."""
    return reader.call(function, arguments)


def _device(reader: Unpickler, *parts: Any) -> str:
    device = ":".join(str(part) for part in parts if type(part) in (str, int))
    reader.budget.charge(CHARACTER_BYTES * len(device))
    return device


_CONSTRUCTORS: Mapping[str, Constructor] = {
    **CONSTRUCTORS,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": first_argument,
    "torch._utils._rebuild_parameter_with_state": first_argument,
    "torch.nn.parameter.Parameter": first_argument,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch.Size": make_tuple,
    "torch.device": _device,
    "torch.torch_version.TorchVersion": first_argument,
    # of TorchScript programs, in which OpenAI publishes CLIP
    **{f"torch.jit._pickle.build_{kind}list": first_argument for kind in ("bool", "double", "int", "tensor")},
    "torch.jit._pickle.restore_type_tag": first_argument,
}


class _Archive:
    """The members of a torch zip file, without their common folder."""

    def __init__(self, file: io.BufferedIOBase, size: int, budget: Budget, pool: ThreadPoolExecutor) -> None:
        self._file, self._size, self._budget, self._pool = file, size, budget, pool
        self._sums: list[tuple[zipfile.ZipInfo, Future[int]]] = []
        try:
            self._zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            why = "the table at the end of the zip file is missing or broken"
            raise CheckpointError(f"cut short or damaged: {why}; copy or download it again") from error
        infos = self._zip.infolist()
        pickles = [info.filename for info in infos if info.filename.split("/")[1:] == ["data.pkl"]]
        names = {info.filename for info in infos}
        if not pickles:
            raise CheckpointError(_other_archive(names))
        if len(pickles) > 1 or len(names) < len(infos):
            raise CheckpointError(
                "a zip file with two data.pkl or two members of one name: damaged or forged"
            )
        if sum(info.file_size for info in infos) > budget.left:
            raise CheckpointError(
                "a zip bomb: it would unfold to many times its size, which no checkpoint does"
            )
        self._folder = pickles[0].removesuffix("data.pkl")
        self._infos = {info.filename: info for info in infos}

    def has(self, name: str) -> bool:
        return self._folder + name in self._infos

    def member(self, name: str) -> np.ndarray:
        """Bytes of one member, uint8 `[count]`; `verify` compares their checksum."""
        info = self._infos.get(self._folder + name)
        if info is None:
            raise CheckpointError(f"member {shown(name)} is missing from the zip file: it is incomplete")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(f"member {shown(name)} is encrypted, or compressed as torch never does")
        data = self._stored(info)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            data = self._inflated(data, info)
        self._sums.append((info, self._pool.submit(zlib.crc32, data.data)))
        return data

    def _stored(self, info: zipfile.ZipInfo) -> np.ndarray:
        """The bytes in the file, read once: `ZipFile.read` would hold each tensor twice."""
        if not 0 <= info.header_offset <= self._size:
            raise CheckpointError(f"member {shown(info.filename)} lies outside of the zip file: damaged")
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        self._file.seek(name_length + extra_length, io.SEEK_CUR)
        if signature != b"PK\3\4":
            raise CheckpointError(f"member {shown(info.filename)} is not where the zip file says: damaged")
        self._budget.charge(info.compress_size)
        return read_bytes(self._file, info.compress_size, self._size)

    def _inflated(self, data: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
        """The decompressed bytes: never more than the archive declares, which the budget covers."""
        self._budget.charge(2 * info.file_size)
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data.data, info.file_size + 1)
        if len(content) != info.file_size:
            raise CheckpointError(f"member {shown(info.filename)} has another size than it should: damaged")
        return np.frombuffer(bytearray(content), np.uint8)

    def verify(self) -> None:
        """Raises: `CheckpointError` when a member read so far differs from its checksum."""
        for info, checksum in self._sums:
            if checksum.result() != info.CRC:
                name = shown(info.filename)
                raise CheckpointError(f"checksum mismatch in {name}: damaged; copy or download it again")
        self._sums.clear()


def _other_archive(names: set[str]) -> str:
    if any(name.endswith(".npy") for name in names):
        return "a NumPy .npz archive, not a checkpoint of a known form"
    return "a zip archive without <name>/data.pkl, so not from PyTorch; unpack it if the weights are inside"
