"""Downloads weights into a cache: resumes interrupted transfers, compares digests, locks against other processes.

Beside each file is its SHA-256 (`NAME.sha256`, as sha256sum writes it), recorded when the file was first used. Every later
use compares the file with it, and with the published digest where there is one.

Environment: `BEIT_HOME` is the cache folder (default ~/.cache/beit); `BEIT_MIRROR` is the address of a folder that holds
the files under their names in the cache, and replaces the publishers' addresses; `BEIT_OFFLINE=1` uses the cache only;
`HF_ENDPOINT` replaces https://huggingface.co. Both may hold a user name and a password, which no message repeats.

pooch, the usual library for this, restarts an interrupted transfer of 1.2 GB from its first byte and lets two ranks
write the same file.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

from beit.containers.errors import CheckpointError, shown
from beit.containers.recognize import container_of
from beit.files import cache_folder, lock, sha256_of, write_text
from beit.text_files import read_bytes, read_text

_TIMEOUT = 30.0  # seconds without receiving anything
_ATTEMPTS = 5  # each continues where the one before stopped
_CHUNK = 1 << 20
_MAX_BYTES = 8 << 30  # the largest published file has 2.4 GB
_MAX_RECORD_BYTES = 1 << 16  # of a digest, or of a tag of a server
_PATIENCE = 60.0  # seconds, after which a transfer below _MIN_RATE counts as interrupted
_MIN_RATE = 1000  # bytes per second
_RANGE_NOT_SATISFIABLE = 416
_REFUSALS = (401, 403, 407, 408, 429)
"""Statuses of files that exist, for others or later: no or no sufficient login, a proxy's, too slow, too many requests."""
_HUB = "https://huggingface.co"
_STRONG_TAG = re.compile(r'"[!#-~]*"')


class DownloadError(OSError):
    """A file could not be fetched. The message says why, and where to save it after a download by hand."""


def fetch(url: str, name: str, *, sha256: str | None = None, page: str = "") -> Path:
    """Path of the file called `name` in the cache, downloaded from `url` if it is not there yet.

    Args:
        url: address; empty if the publisher has none that a program can read.
        name: of the file in the cache. It must be unique, while many publishers use the same names for all their files.
        sha256: expected digest in hexadecimal, or its first digits; None if the publisher states none.
        page: web page of the file, for error messages.
    Raises:
        DownloadError: no network, a dead link, a file that holds no weights or is too large, another digest than the
            published one or than at the first use, or `BEIT_OFFLINE` is set.
    """
    target = cache_folder() / name
    by_hand = f"Download the published file by hand{f' ({page})' if page else ''} and save it as {target}"
    if target.is_file():
        _compare_cached(target, sha256)
        return target
    if os.environ.get("BEIT_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(f"{name} is not in the cache and BEIT_OFFLINE is set. {by_hand}")
    address = _address(url, name)
    if address is None:
        raise DownloadError(f"{name} has no address that a program can read. {by_hand}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        if not target.is_file():  # another process may have finished it meanwhile
            part = target.with_name(f"{target.name}.part")
            _download(address, part, by_hand)
            digest = _verify(part, target, address, sha256, by_hand)
            part.replace(target)
            _tag_of(part).unlink(missing_ok=True)
            _record(target, digest)
    return target


def _compare_cached(target: Path, sha256: str | None) -> None:
    """Compare a file of the cache with its published and its recorded digest; record it where there is none."""
    digest, recorded = sha256_of(target), _recorded(target)
    again = f"delete {target} to download it again"
    if sha256 and not digest.startswith(sha256.lower()):
        raise DownloadError(
            f"{target} is not the published file: its SHA-256 is {digest}, expected {sha256}; {again}"
        )
    if recorded is None:
        _record(target, digest)
    elif digest != recorded:
        raise DownloadError(
            f"{target} has changed since its first use: its SHA-256 is {digest}, recorded is {recorded}; {again}, or, if "
            f"you have replaced it yourself, delete {_record_of(target)}"
        )


def _recorded(target: Path) -> str | None:
    """The digest recorded beside a file of the cache."""
    file = _record_of(target)
    if not file.is_file():
        return None
    match = re.match(rb"([0-9a-f]{64})\b", read_bytes(file, _MAX_RECORD_BYTES))
    if match is None:
        raise DownloadError(
            f"{file} is damaged, it holds no SHA-256; delete it to record that of {target.name} again"
        )
    return match[1].decode()


def _record(target: Path, digest: str) -> None:
    if _recorded(target) is None:
        with contextlib.suppress(OSError):  # a shared cache that this user cannot write
            write_text(_record_of(target), f"{digest}  {target.name}\n")


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


class _Address(NamedTuple):
    """An address without user name and password, and the header that states them (or "")."""

    url: str
    authorization: str


def _address(url: str, name: str) -> _Address | None:
    """The address of a file; None if it has none."""
    mirror, hub = os.environ.get("BEIT_MIRROR"), os.environ.get("HF_ENDPOINT")
    source = "its address in the table of published files"
    if mirror:
        url, source = f"{mirror.rstrip('/')}/{name}", "BEIT_MIRROR"
    elif hub and url.startswith(_HUB):
        url, source = url.replace(_HUB, hub.rstrip("/"), 1), "HF_ENDPOINT"
    if not url:
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        is_known = parts.scheme == "file" or (parts.scheme in ("http", "https") and bool(parts.hostname))
        _ = parts.port  # raises an error if it is not a number
    except ValueError:
        is_known = False
    if not is_known:  # the value is not repeated, it may hold a password
        raise DownloadError(
            f"{name} cannot be fetched: {source} is not a valid address that begins with https://"
        )
    login, _, place = parts.netloc.rpartition("@")
    login = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
    return _Address(parts._replace(netloc=place).geturl(), f"Basic {login}" if login else "")


def _download(address: _Address, part: Path, by_hand: str) -> None:
    """Download `address` to `part`, continuing where an earlier attempt stopped."""
    place = address.url
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
                reason = f"HTTP {error.code} {shown(str(error.reason))}"
                fault = "cannot be read" if error.code in _REFUSALS else "is a dead link"
                raise DownloadError(f"{place} {fault}: {reason}. {by_hand}") from error
            reason = f"HTTP {error.code} {shown(str(error.reason))}"
        except _RefusedError as error:
            part.unlink(missing_ok=True)
            raise DownloadError(f"{place} is refused: {error}. {by_hand}") from None
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
        ) as error:
            reason = shown(str(getattr(error, "reason", error))) or type(error).__name__
        except OSError as error:  # of the disk
            raise DownloadError(
                f"{place} cannot be saved as {part}: {error.strerror or error}; what arrived is kept"
            ) from error
    raise DownloadError(
        f"{place} could not be fetched in {_ATTEMPTS} attempts: {reason}. Is there a network, or a proxy to set "
        f"(https_proxy)? What arrived is kept and continued next time. {by_hand}"
    )


def _transfer(address: _Address, part: Path) -> bool:
    """Make one request and return whether `part` is complete. Continues only if the server confirms the same file."""
    request = urllib.request.Request(
        address.url, headers={"User-Agent": "beit-paddle", "Accept-Encoding": "identity"}
    )
    if address.authorization:
        request.add_unredirected_header("Authorization", address.authorization)
    have, tag = (part.stat().st_size, _read_tag(part)) if part.is_file() else (0, "")
    if have and tag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    with urllib.request.build_opener(_SafeRedirects).open(request, timeout=_TIMEOUT) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length") or ""
        total = int(length) + have if length.isdecimal() else None
        if total is not None and total > _MAX_BYTES:
            raise _RefusedError(f"the file has {total / 1e9:.1f} GB, more than {_MAX_BYTES / 1e9:.1f} GB")
        # Without a strong tag an interrupted transfer is restarted.
        etag = response.headers.get("ETag") or ""
        _tag_of(part).write_text(etag if _STRONG_TAG.fullmatch(etag) else "", encoding="utf-8")
        title = part.name.removesuffix(".part")
        with part.open("ab" if resumed else "wb") as file, _bar(title, total, have) as bar:
            _copy(response, file, have, bar)
    return total is None or part.stat().st_size == total


def _copy(response: http.client.HTTPResponse, file: IO[bytes], have: int, bar: tqdm) -> None:
    """Copy a body to a file that already has `have` bytes, within the bounds of size and rate."""
    start, received = time.monotonic(), 0
    while chunk := response.read1(_CHUNK):
        received += len(chunk)
        if have + received > _MAX_BYTES:
            raise _RefusedError(f"the file has more than {_MAX_BYTES / 1e9:.1f} GB")
        file.write(chunk)
        bar.update(len(chunk))
        seconds = time.monotonic() - start
        if seconds > _PATIENCE and received < _MIN_RATE * seconds:
            raise TimeoutError(f"{received} bytes arrived in {seconds:.0f} s")


class _RefusedError(Exception):
    """A response that is not accepted, however often it is requested."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to an unencrypted address."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            fp.close()
            raise _RefusedError("it redirects from https to an unencrypted address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _verify(part: Path, target: Path, address: _Address, sha256: str | None, by_hand: str) -> str:
    """Check that `part` is a checkpoint with this digest, and return its digest; remove it otherwise."""
    digest, recorded, problem = sha256_of(part), _recorded(target), ""
    if sha256 and not digest.startswith(sha256.lower()):
        problem = f"its SHA-256 is {digest}, expected {sha256}"
    elif recorded not in (None, digest):
        problem = f"its SHA-256 is {digest}, that of the first download in {_record_of(target)} is {recorded}"
    else:
        try:
            with part.open("rb") as file:
                container_of(file, part.stat().st_size)
        except CheckpointError as error:
            problem = str(error)
    if problem:
        part.unlink()
        raise DownloadError(f"{address.url} did not give the weights: {problem}. {by_hand}")
    return digest


def _bar(title: str, total: int | None, initial: int) -> tqdm:
    return tqdm(
        total=total, initial=initial, desc=title, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
    )


def _tag_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _read_tag(part: Path) -> str:
    path = _tag_of(part)
    return read_text(path, _MAX_RECORD_BYTES).strip() if path.is_file() else ""


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock on the download of `target`, which ends with the process at the latest."""
    with target.with_name(f"{target.name}.lock").open("w") as file:
        lock(file.fileno(), wait=True)
        yield
