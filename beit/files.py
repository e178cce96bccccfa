"""Paths with variables, atomic writes, locks and digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

_CHUNK = 1 << 20
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
"""Part of the names of temporary files: process numbers mean nothing to the other machines that share a folder."""
_ABANDONED_SECONDS = 24 * 3600
"""Age of a temporary file of another machine from which on no process writes it any more."""


def expand_path(path: str) -> str:
    """Expand `~`, `~user`, `$NAME` and `${NAME}` in a path; a path that exists unexpanded is returned unchanged.

    Raises:
        ValueError: there is no such environment variable or user.
    """
    if ("~" not in path and "$" not in path) or os.path.lexists(path):
        return path
    try:
        expanded = os.path.expandvars(Path(path).expanduser() if path.startswith("~") else path)
    except RuntimeError:
        raise ValueError(f"{path} names the home folder of a user who does not exist") from None
    unknown = re.search(r"\$(\w+|\{[^}]*\})", expanded)
    if unknown:
        raise ValueError(f"{path} names the environment variable {unknown[1].strip('{}')}, which is not set")
    return str(expanded)


def cache_folder() -> Path:
    """Folder of downloaded weights and of tables of contents of archives: `BEIT_HOME`, or `beit` in the user's cache."""
    home = os.environ.get("BEIT_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "beit"


def require_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a file that `replacing` could not write, before the work that it is to hold is done.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: `path` is a folder, or its folder cannot be written; the message names `path`.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {target}: its folder does not exist; create {target.parent} first"
        )
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"cannot write {target}: it is a folder; name a file")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {target}: {error.strerror or error}; name a file in another folder"
        ) from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary binary file that replaces `path` when the block ends, and is removed if the block raises.

    It is written beside the target, synced to the disk and renamed, and the folder is synced: a crash at any moment
    leaves either the old file or the new one. Temporary files of killed processes are removed by the next write to the
    same path; those of other machines once they are a day old.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: with the number of the original error (no space, no permission, ...); the message names `path` and says
            that the previous file is untouched.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {target}: its folder does not exist; create {target.parent} first"
        )
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        _remove(temporary)
        if str(error.strerror).startswith("cannot write "):
            raise  # it names another file, which was written inside of the block
        kept = "the previous file is untouched" if target.exists() else "no file was left there"
        raise OSError(error.errno, f"cannot write {target}: {error.strerror or error}; {kept}") from error
    except BaseException:  # also Ctrl-C: the unfinished file must not stay
        _remove(temporary)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8, whole or not at all. Raises as `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


def refuse_other_texts(texts: Mapping[Path, str]) -> None:
    """Refuse to write texts over files that have others.

    Args:
        texts: by file.

    Raises:
        ValueError: there is such a file.
        OSError: it cannot be read.
    """
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise ValueError(
                f"{path} exists and has other content, which would be overwritten; name a new folder"
            )


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_arrays(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 of the names, types, shapes and bytes of named arrays, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def map_array(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a `.npy` file, as a read-only memory map.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a whole `.npy` file of numbers.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    # What NumPy raises for damaged headers.
    except (ValueError, EOFError, SyntaxError, TypeError, AttributeError, TokenError):
        raise ValueError(f"{path} is damaged, it is not a .npy file of numbers") from None


def lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file or folder against other processes; returns whether that succeeded.

    The lock ends when the handle is closed or the process ends. On file systems without locks the result is True.

    Args:
        handle: file descriptor.
        wait: wait until another process releases its lock; otherwise return False at once.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the first error matters; nothing can be done about this one
        path.unlink(missing_ok=True)


def _remove_leftovers(target: Path) -> None:
    """Remove the unfinished files of dead processes, and of an earlier process with the number of this one.

    Of other machines, and of earlier versions, which left the host out, those that nothing was written to for a day.
    """
    name = re.compile(rf"\.{re.escape(target.name)}\.(?:([0-9a-f]{{8}})\.)?(\d+)\.tmp", re.ASCII)
    for path in target.parent.iterdir():
        found = name.fullmatch(path.name)
        if found and (not _is_alive(int(found[2])) if found[1] == _HOST else _is_abandoned(path)):
            _remove(path)


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
    except OSError:  # removed by its process
        return False


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # elsewhere signal 0 has an effect
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # folders cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
