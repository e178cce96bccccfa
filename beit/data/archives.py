"""Tar and zip archives: where the bytes of each member are, so that images are read without unpacking."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from beit.data.index_cache import Table, joined, names_of, remembered
from beit.data.tars import RAW, Member, scan_tar

ENDINGS = (".tar", ".zip")
"""Of archives that allow random access, in lower case."""
_MAX_BYTES = 2**30  # of one image; more is damage or an attack
_ZIP_UTF8 = 0x800  # flag of a member whose name is UTF-8
_ZIP_HEADER = 30  # bytes of the fixed part of a zip's local header
_STORED, _DEFLATED = 2, 3
_ZIP_KINDS = {zipfile.ZIP_STORED: _STORED, zipfile.ZIP_DEFLATED: _DEFLATED}
ENTRY = np.dtype(
    [("file", "<i4"), ("start", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("kind", "u1")]
)
"""A member: number of its archive, first byte, bytes in the archive and unpacked, checksum, and kind; kind 0 is none."""


@dataclass(frozen=True, eq=False)
class Members:
    """The members of archives that are the images of a list. Each read opens the archive, so workers share nothing.

    Args:
        archives: tar and zip files.
        entries: of type `ENTRY`, one for each image.
    """

    archives: tuple[Path, ...]
    entries: np.ndarray

    def has(self, index: int) -> bool:
        """Whether there is a member for this image."""
        return bool(self.entries["kind"][index])

    def read(self, index: int) -> bytes:
        """The content of one member.

        Raises:
            ValueError: there is none, it is damaged, or the archive has changed.
            OSError: the archive cannot be read.
        """
        number, start, stored, size, crc, kind = self.entries[index].tolist()
        if not kind:
            raise ValueError("no such member in the archive")
        if max(stored, size) > _MAX_BYTES:
            raise ValueError(f"{max(stored, size)} bytes; an image has at most {_MAX_BYTES}")
        with self.archives[number].open("rb", buffering=0) as file:
            file.seek(start)
            if kind != RAW:
                file.seek(start + _zip_header_length(file.read(_ZIP_HEADER)))
            data = file.read(stored)
        if len(data) < stored:
            raise ValueError(
                f"{self.archives[number]} ends inside this member: it was cut off; copy it again"
            )
        if kind == _DEFLATED:
            data = _inflate(data, size)
        if kind != RAW and zlib.crc32(data) != crc:
            raise ValueError("the checksum in the archive differs: this member is damaged")
        return data


@dataclass(frozen=True, eq=False)
class Archive:
    """The regular files of an archive: `names` and, for each, its entry. Hidden ones (`.name`) are left out."""

    path: Path
    names: tuple[str, ...]
    entries: np.ndarray

    def find(self, names: Sequence[str]) -> np.ndarray:
        """The entries of some members, `[len(names)]`; those of unknown names have kind 0."""
        rows = {name: row for row, name in enumerate(self.names)}
        padded = np.concatenate([self.entries, np.zeros(1, ENTRY)])
        return padded[[rows.get(name, -1) for name in names]]


def read_archive(path: Path) -> Archive:
    """The table of contents of a tar or zip file. Tars inside of a tar are read as folders of their names.

    If all members are in one folder with the name of the archive, their names are relative to that folder.

    Raises:
        ValueError: the archive is damaged or cut off, a name leaves it, or an image in it is not a regular file.
        OSError: it cannot be read.
    """
    stat = path.stat()
    return _read_archive(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=2)  # training and validation images may be in one archive
def _read_archive(path: Path, size: int, mtime: int) -> Archive:
    table = remembered([path], "archive", lambda: _make_table(path))
    names, own = names_of(table["names"]), f"{path.stem}/"
    if names and all(name.startswith(own) for name in names):
        names = [name.removeprefix(own) for name in names]
    return Archive(path, tuple(names), table["entries"])


def _make_table(path: Path) -> Table:
    members: dict[str, Member] = {}  # the last of several members with one name counts, as in tar
    for member in _scan_zip(path) if path.suffix.lower() == ".zip" else scan_tar(path, nested=True):
        name = safe_name(path, member.name)
        if not is_hidden(name):
            members[name] = member
    return {"names": joined(list(members)), "entries": entries(members.values())}


def entries(members: Iterable[Member], file: int = 0) -> np.ndarray:
    """Members as an array of type `ENTRY`; `file` is the number of their archive."""
    return np.array([(file, *member[1:]) for member in members], ENTRY)


def safe_name(archive: Path, name: str) -> str:
    """The name of a member without a leading `./`.

    Raises:
        ValueError: it is empty or absolute, or has the part `..` or a zero byte.
    """
    if (
        not name
        or "\0" in name
        or ".." in name
        or name[:1] in "/\\"
        or name[1:2] == ":"
        or "//" in name
        or "./" in name
    ):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or "\0" in name or ".." in parts or parts[0] == "/" or name[1:2] == ":":
            raise ValueError(f"{archive}: the name of the member {name!r} leaves the archive; pack it again")
        return "/".join(parts)
    return name


def is_hidden(name: str) -> bool:
    """Whether a member or a folder above it begins with a dot, as macOS adds them."""
    return name.startswith(".") or "/." in name


def _scan_zip(path: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a zip file, or is cut off ({error}); copy it again") from error
    end = path.stat().st_size
    for info in infos:
        if info.is_dir():
            continue
        if info.flag_bits & 1:
            raise ValueError(f"{path}: the member {info.filename} is encrypted; unpack the archive")
        if info.compress_type not in _ZIP_KINDS:
            raise ValueError(
                f"{path}: the member {info.filename} has compression method {info.compress_type}; expected stored or "
                "deflated: pack it again with `zip -0`"
            )
        if info.header_offset + _ZIP_HEADER + info.compress_size > end:
            raise ValueError(f"{path} is cut off in the member {info.filename}; copy it again")
        kind = _ZIP_KINDS[info.compress_type]
        yield Member(
            _zip_name(path, info), info.header_offset, info.compress_size, info.file_size, info.CRC, kind
        )


def _zip_name(path: Path, info: zipfile.ZipInfo) -> str:
    """The name of a member; one that is not marked as UTF-8 must be UTF-8 all the same, as Linux writes it."""
    if info.flag_bits & _ZIP_UTF8 or info.filename.isascii():
        return info.filename
    try:
        raw = info.filename.encode("cp437")  # as which zipfile has decoded it
    except UnicodeEncodeError:
        return info.filename  # from the field of Unicode names
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: the letters of the member {raw!r} are in an unknown encoding; unpack the archive, or pack it again "
            "with names in UTF-8"
        ) from error


def _zip_header_length(header: bytes) -> int:
    if len(header) < _ZIP_HEADER or header[:4] != b"PK\x03\x04":
        raise ValueError("the archive has no header for this member: it is damaged")
    return _ZIP_HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _inflate(data: bytes, size: int) -> bytes:
    try:
        unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"cannot be unpacked from the archive: {error}") from error
    if len(unpacked) != size:
        raise ValueError(f"unpacks to another number of bytes than the {size} that the archive states")
    return unpacked
