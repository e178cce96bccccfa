"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def expand_path(path: str) -> str:
    """Expand `~`, `~user`, `$NAME` and `${NAME}` in a path; a path that exists as it is written stays.

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


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, and vanishes when it raises.

    Written beside the target, synced to the disk, renamed, and the folder synced: a crash at any moment
    leaves either the old file or the new one. What a killed process left behind is removed by the next write
    to the same path.

    Raises: `OSError` of the same number (no space, no permission, ...), naming `path` and saying that the
    previous file is untouched; `FileNotFoundError` when the folder does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {target}: its folder does not exist; create {target.parent} first"
        )
    _sweep(target)
    temporary = _temporary(target, os.getpid())
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        _remove(temporary)
        kept = "the previous file is untouched" if target.exists() else "no file was left there"
        raise OSError(error.errno, f"cannot write {target}: {error.strerror or error}; {kept}") from error
    except BaseException:  # also Ctrl-C: the half-written file must not stay
        _remove(temporary)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8, whole or not at all. Raises as `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


def _temporary(target: Path, pid: int | str) -> Path:
    return target.with_name(f".{target.name}.{pid}.tmp")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # nothing more can be done, and the first error matters
        path.unlink(missing_ok=True)


def _sweep(target: Path) -> None:
    """Remove what dead processes, or an earlier one of this process's number, left half-written."""
    prefix, suffix = f".{target.name}.", ".tmp"
    for path in target.parent.iterdir():
        pid = path.name.removeprefix(prefix).removesuffix(suffix)
        if path.name == f"{prefix}{pid}{suffix}" and pid.isdecimal() and not _lives(int(pid)):
            _remove(path)


def _lives(pid: int) -> bool:
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # elsewhere signal 0 is not harmless
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
