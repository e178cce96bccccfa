"""Downloads weights into a cache: resumes interrupted transfers, verifies digests, locks against other processes.

Environment: `BEIT_HOME` is the cache folder (default ~/.cache/beit); `BEIT_MIRROR` is the address of a folder that holds
the files under their names in the cache, and replaces the publishers' addresses; `BEIT_OFFLINE=1` uses the cache only;
`HF_ENDPOINT` replaces https://huggingface.co.

pooch, the usual library for this, restarts an interrupted transfer of 1.2 GB from its first byte and lets two ranks
write the same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from beit.checkpoint.containers import container_of
from beit.checkpoint.errors import CheckpointError

_TIMEOUT = 30.0  # seconds without receiving anything
_ATTEMPTS = 5  # each continues where the one before stopped
_CHUNK = 1 << 20
_RANGE_NOT_SATISFIABLE = 416


class DownloadError(OSError):
    """A file could not be fetched. The message says why, and where to save it after a download by hand."""


def cache_folder() -> Path:
    """Folder of the downloaded weights."""
    home = os.environ.get("BEIT_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "beit"


def fetch(url: str, name: str, *, sha256: str | None = None, page: str = "") -> Path:
    """Path of the file called `name` in the cache, downloaded from `url` if it is not there yet.

    Args:
        url: address; empty if the publisher has none that a program can read.
        name: of the file in the cache. It must be unique, while many publishers use the same names for all their files.
        sha256: expected digest in hexadecimal, or its first digits; None if the publisher states none.
        page: web page of the file, for error messages.
    Raises:
        DownloadError: no network, a dead link, a file that holds no weights, a wrong digest, or `BEIT_OFFLINE` is set.
    """
    target = cache_folder() / name
    by_hand = f"Download it by hand{f' ({page})' if page else ''} and save it as {target}"
    if target.is_file():
        return target
    address = _address(url, name)
    if os.environ.get("BEIT_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(f"{name} is not in the cache and BEIT_OFFLINE is set. {by_hand}")
    if not address:
        raise DownloadError(f"{name} has no address that a program can read. {by_hand}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        if not target.is_file():  # another process may have finished it meanwhile
            part = target.with_name(f"{target.name}.part")
            _download(address, part, by_hand)
            _verify(part, address, sha256, by_hand)
            part.replace(target)
            _tag_of(part).unlink(missing_ok=True)
    return target


def _address(url: str, name: str) -> str:
    mirror = os.environ.get("BEIT_MIRROR")
    if mirror:
        return f"{mirror.rstrip('/')}/{name}"
    hub = os.environ.get("HF_ENDPOINT")
    return url.replace("https://huggingface.co", hub.rstrip("/"), 1) if hub else url


def _download(address: str, part: Path, by_hand: str) -> None:
    """Download `address` to `part`, continuing where an earlier attempt stopped."""
    reason = ""
    for _ in range(_ATTEMPTS):
        try:
            if _transfer(address, part):
                return
            reason = "the transfer was interrupted"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == _RANGE_NOT_SATISFIABLE:  # `part` is longer than this file
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise DownloadError(
                    f"{address} is a dead link: HTTP {error.code} {error.reason}. {by_hand}"
                ) from error
            reason = f"HTTP {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise DownloadError(
        f"{address} could not be fetched in {_ATTEMPTS} attempts: {reason}. Is there a network, or a proxy to set "
        f"(https_proxy)? What arrived is kept and continued next time. {by_hand}"
    )


def _transfer(address: str, part: Path) -> bool:
    """Make one request and return whether `part` is complete. Continues only if the server confirms the same file."""
    request = urllib.request.Request(
        address, headers={"User-Agent": "beit-paddle", "Accept-Encoding": "identity"}
    )
    have, tag = (part.stat().st_size, _read_tag(part)) if part.is_file() else (0, "")
    if have and tag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        # Without a strong tag an interrupted transfer is restarted.
        etag = response.headers.get("ETag") or ""
        _tag_of(part).write_text("" if etag.startswith("W/") else etag, encoding="utf-8")
        title = part.name.removesuffix(".part")
        with part.open("ab" if resumed else "wb") as file, _bar(title, total, have if resumed else 0) as bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or part.stat().st_size == total


def _verify(part: Path, address: str, sha256: str | None, by_hand: str) -> None:
    """Check that `part` is a checkpoint with this digest; remove it otherwise."""
    with part.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        file.seek(0)
        problem = ""
        if sha256 and not digest.hexdigest().startswith(sha256.lower()):
            problem = f"its SHA-256 is {digest.hexdigest()}, expected {sha256}"
        else:
            try:
                container_of(file, part.stat().st_size)
            except CheckpointError as error:
                problem = str(error)
    if problem:
        part.unlink()
        raise DownloadError(f"{address} did not give the weights: {problem}. {by_hand}")


def _bar(title: str, total: int | None, initial: int) -> tqdm:
    return tqdm(
        total=total, initial=initial, desc=title, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
    )


def _tag_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _read_tag(part: Path) -> str:
    path = _tag_of(part)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock on the download of `target`, which ends with the process at the latest."""
    with target.with_name(f"{target.name}.lock").open("w") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
