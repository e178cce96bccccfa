"""PyTorch's two file forms, read without PyTorch: the zip archive (since 1.6) and the older pickles in a row.

Source: torch/serialization.py (`_save`, `_legacy_save`) and the layouts of files written with torch 2.13.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.meanings import ALLOWED, rebuild, script_names
from beit.checkpoint.raw_bytes import read_raw
from beit.checkpoint.rebuild import MAX_EXPANSION, SLACK_BYTES, STORAGE_DTYPES, Storage
from beit.checkpoint.unpickle import Global, Unpickler

# The pickled number every legacy file begins with: torch/serialization.py, MAGIC_NUMBER.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of the name and of the extra field


def read_zip(file: io.BufferedIOBase, size: int) -> tuple[Any, dict[str, str]]:
    """Tree and casts of a zip file: `<name>/data.pkl`, and `<name>/data/<key>` for each storage.

    A TorchScript program becomes the flat state dict of its module; its code is not looked at.

    Raises: `CheckpointError` for a damaged archive, a wrong checksum, another kind of archive, absurd sizes;
    `UnsafeFileError` from the unpickler.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:  # sums one tensor while the next is read
        archive = _Archive(file, size, pool)
        big_endian = archive.has("byteorder") and archive.member("byteorder").tobytes() == b"big"
        stored: dict[str, np.ndarray] = {}

        def elements(storage: Storage) -> np.ndarray:
            if storage.key not in stored:
                stored[storage.key] = archive.member(f"data/{storage.key}")
            return _as_elements(stored[storage.key], storage, big_endian)

        pickle = archive.member("data.pkl").tobytes()
        archive.verify()
        # A TorchScript program (OpenAI publishes CLIP so) keeps its tensors in objects of classes of its own.
        script = script_names(pickle) if archive.has("constants.pkl") else frozenset()
        tree = Unpickler(io.BytesIO(pickle), len(pickle), ALLOWED | script, _persistent).load()
        result = rebuild(tree, size, storage=elements, exact=True, script=script)
        archive.verify()
    return result


def read_legacy(file: io.BufferedIOBase, size: int) -> tuple[Any, dict[str, str]]:
    """Tree and casts of a legacy file: pickles of magic, version, system, value, keys; then the storages.

    Raises: `CheckpointError` for a damaged file or an unknown version; `UnsafeFileError` from the unpickler.
    """
    kinds: dict[str, str] = {}

    def persistent(name: Any) -> Any:
        if isinstance(name, tuple) and len(name) == 4 and name[0] == "module" and isinstance(name[1], Global):
            return name[1]  # the class of a pickled module, with its source text
        storage = _persistent(name)
        if len(name) == 6 and name[5] is not None:
            raise CheckpointError(
                "storages inside storages (torch before 0.4); save it again with a newer torch"
            )
        kinds[storage.key] = storage.kind
        return storage

    def pickle() -> Any:
        return Unpickler(file, size, ALLOWED, persistent).load()

    pickle()  # the magic number, already compared
    version = pickle()
    if version != _LEGACY_PROTOCOL:
        raise CheckpointError(f"version {version} of PyTorch's older file form; {_LEGACY_PROTOCOL} is known")
    system, _ = rebuild(pickle(), size)
    big_endian = not system["little_endian"]
    tree, keys = pickle(), pickle()
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        numel = int.from_bytes(file.read(8), "little", signed=True)
        count = numel * np.dtype(STORAGE_DTYPES[kinds[key]]).itemsize
        places[key] = (file.tell(), count)
        if not 0 <= count <= size - file.tell():
            raise EOFError(f"storage {key} of {count:,} bytes is announced at {file.tell():,} of {size:,}")
        file.seek(count, io.SEEK_CUR)
    if file.tell() != size:
        raise CheckpointError(f"{size - file.tell():,} bytes follow the last storage: damaged")
    stored: dict[str, np.ndarray] = {}

    def elements(storage: Storage) -> np.ndarray:
        if storage.key not in stored:
            start, count = places[storage.key]
            file.seek(start)
            stored[storage.key] = read_raw(file, count, size)
        return _as_elements(stored[storage.key], storage, big_endian)

    return rebuild(tree, size, storage=elements, exact=True)


def _persistent(name: Any) -> Storage:
    """The storage that a persistent id names: ("storage", class, key, location, elements, ...)."""
    if not isinstance(name, tuple) or not 5 <= len(name) <= 6 or name[0] != "storage":
        raise CheckpointError("a persistent id that is not a torch storage")
    kind, key, numel = name[1], name[2], name[4]
    if not isinstance(kind, Global) or kind.module != "torch" or kind.name not in STORAGE_DTYPES:
        raise CheckpointError(f"a torch storage of class {str(kind)[:80]}")
    if not isinstance(key, str) or not isinstance(numel, int):
        raise CheckpointError("a torch storage without key and size")
    return Storage(kind.name, key, numel)


def _as_elements(data: np.ndarray, storage: Storage, big_endian: bool) -> np.ndarray:
    dtype = storage.dtype
    if data.size != storage.numel * dtype.itemsize:
        raise CheckpointError(f"storage {storage.key} of {storage.numel} elements has {data.size} bytes")
    if big_endian:
        return data.view(dtype.newbyteorder(">")).astype(dtype)
    return data.view(dtype)


class _Archive:
    """The members of a torch zip file, without their common folder."""

    def __init__(self, file: io.BufferedIOBase, size: int, pool: ThreadPoolExecutor) -> None:
        self._file, self._size, self._pool = file, size, pool
        self._sums: list[tuple[zipfile.ZipInfo, Future[int]]] = []
        try:
            self._zip = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise CheckpointError(
                "cut short or damaged: the table at the end of the zip file is missing or broken; copy or "
                "download it again"
            ) from error
        infos = self._zip.infolist()
        pickles = [info.filename for info in infos if info.filename.split("/")[1:] == ["data.pkl"]]
        names = {info.filename for info in infos}
        if not pickles:
            raise CheckpointError(_other_archive(names))
        if len(pickles) > 1 or len(names) < len(infos):
            raise CheckpointError(
                "a zip file with two data.pkl or two members of one name: damaged or forged"
            )
        if sum(info.file_size for info in infos) > MAX_EXPANSION * size + SLACK_BYTES:
            raise CheckpointError(
                "a zip bomb: it would unfold to many times its size, which no checkpoint does"
            )
        self._folder = pickles[0].removesuffix("data.pkl")
        self._infos = {info.filename: info for info in infos}

    def has(self, name: str) -> bool:
        return self._folder + name in self._infos

    def member(self, name: str) -> np.ndarray:
        """Bytes of one member; `verify` compares its checksum."""
        info = self._infos.get(self._folder + name)
        if info is None:
            raise CheckpointError(f"member {name} is missing from the zip file: it is incomplete")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(f"member {name} is encrypted or compressed in a way torch does not use")
        if info.compress_type == zipfile.ZIP_STORED:
            return self._stored(info)
        return np.frombuffer(bytearray(self._zip.read(info)), np.uint8)

    def _stored(self, info: zipfile.ZipInfo) -> np.ndarray:
        """Read in place: `ZipFile.read` would hold each tensor twice."""
        if not 0 <= info.header_offset <= self._size:
            raise CheckpointError(f"member {info.filename} lies outside of the zip file: damaged")
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        self._file.seek(name_length + extra_length, io.SEEK_CUR)
        if signature != b"PK\3\4":
            raise CheckpointError(f"member {info.filename} is not where the zip file says: damaged")
        data = read_raw(self._file, info.file_size, self._size)
        self._sums.append((info, self._pool.submit(zlib.crc32, data.data)))
        return data

    def verify(self) -> None:
        """Raises: `CheckpointError` when a member read so far differs from its checksum."""
        for info, checksum in self._sums:
            if checksum.result() != info.CRC:
                raise CheckpointError(
                    f"checksum mismatch in {info.filename}: damaged; copy or download it again"
                )
        self._sums.clear()


def _other_archive(names: set[str]) -> str:
    if any(name.endswith(".npy") for name in names):
        return "a NumPy .npz archive, not a checkpoint of a known form"
    return "a zip archive without <name>/data.pkl, so not from PyTorch; unpack it if the weights are inside"
