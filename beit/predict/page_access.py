"""Which requests the web page of `beit serve` answers: those of its own address, for its own routes and uploads.

`Access` is an ASGI application in front of gradio's. It refuses everything that the page itself does not send.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from beit.predict.page_text import language_of, shown_reason

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_API = "/gradio_api"
_READ = re.compile(
    r"/|/health|/(config|theme\.css|manifest\.json|favicon\.ico|robots\.txt|pwa_icon(/\d+)?)/?|/(assets|static|svelte)/.+|"
    rf"{_API}/(info|startup-events|theme\.css|heartbeat/\w+|queue/data|upload_progress|call/look/\w+)/?"
)
_FILE = f"{_API}/file="
_UPLOAD = re.compile(rf"{_API}/upload/?")
_JSON = frozenset({"/predict", "/health"})
_PREDICT = re.compile(rf"{_API}/(queue/join|call/look)/?")
_CONTROL = re.compile(rf"{_API}/(reset|cancel)/?")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[0-9a-z._-]+)(:\d{1,5})?")
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_FILE_MARK = {"_type": "gradio.FileData"}
_FILE_FIELDS = frozenset({"path", "url", "size", "orig_name", "mime_type", "is_stream", "meta"})

_MAX_JSON = 64 * 1024  # bytes of a request other than an upload
_UPLOAD_OVERHEAD = 64 * 1024  # bytes of an upload besides the file
_KEPT_UPLOADS = 100  # files of the largest size that stay on the disk; beyond that the oldest are removed
_PAUSE_SECONDS = 30.0  # between two parts of a request
_REQUEST_SECONDS = 300.0  # for a whole request


class RefusedError(Exception):
    """A request that is not answered: an HTTP `status` and the `reason` in words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Access:
    """The page, for requests that it sends itself.

    Args:
        page: the ASGI application of the page.
        host: address that the server listens on.
        names: further host names under which the page is reached, such as that of a proxy; lower case.
        uploads: folder of the uploaded files, without symbolic links in its path.
        max_bytes: size of the largest file.
        kept: files in `uploads` that are never removed, such as the page's examples.
    """

    page: Application
    host: str
    names: frozenset[str]
    uploads: Path
    max_bytes: int
    kept: frozenset[Path] = frozenset()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with a status and one line of text (JSON on the routes of `page_api`)."""
        if scope["type"] == "lifespan":
            await self.page(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        accepted = next((value for name, value in scope["headers"] if name == b"accept-language"), b"")
        answer = _Answer(send, language_of(accepted.decode("latin-1")), is_json=scope["path"] in _JSON)
        try:
            check_origin(scope["headers"], self.host, self.names)
            await self.page(scope, await self._checked(scope, receive, answer), answer)
        except RefusedError as refused:
            answer.refused = refused
        except Exception:
            if answer.refused is None:  # otherwise: the page's reaction to a body that ended early
                raise
        await answer.finish()

    async def _checked(self, scope: Message, receive: Receive, answer: _Answer) -> Receive:
        """The source of a request's body, once its route and, except for uploads, its body are checked."""
        method, path = scope["method"], scope["path"]
        if method == "POST" and _UPLOAD.fullmatch(path):
            await asyncio.to_thread(remove_oldest, self.uploads, _KEPT_UPLOADS * self.max_bytes, self.kept)
            return _bounded(receive, self.max_bytes + _UPLOAD_OVERHEAD, answer)
        if method == "POST" and path == "/predict":
            return _bounded(receive, self.max_bytes, answer)
        limited = _bounded(receive, _MAX_JSON, answer)
        if method == "POST" and (_PREDICT.fullmatch(path) or _CONTROL.fullmatch(path)):
            body = await read_body(limited)
            if _PREDICT.fullmatch(path):
                check_prediction(body, self.uploads)
            return _replay(body, receive)
        if method in ("GET", "HEAD"):
            if path.startswith(_FILE):
                require_upload(path.removeprefix(_FILE), self.uploads)
                return limited
            if _READ.fullmatch(path):
                return limited
        hint = "; send an image with POST" if path == "/predict" else ""
        raise RefusedError(404, f"{method} {path[:100]!r} is not a request of this page{hint}")


def check_origin(headers: list[tuple[bytes, bytes]], host: str, names: frozenset[str]) -> None:
    """Check that a request is for this server, and from a page of this server or from no web page.

    A web page of another site can send requests to this machine. The browser states that site as `Origin`, or, where
    its name was made to resolve to this machine (DNS rebinding), as `Host`.

    Args:
        headers: of the request, names in lower case.
        host: address that the server listens on.
        names: further host names of the server.

    Raises:
        RefusedError: they are of another host or site.
    """
    hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None or not _is_own(match["name"].strip("[]"), host.lower(), names):
        raise RefusedError(
            403,
            f"the host {', '.join(hosts)[:100] or 'without a name'} is not that of this page; to serve the page under "
            "another name pass --allow-host NAME",
        )
    for name, value in headers:
        if name == b"origin" and _address(value.decode("latin-1")) != hosts[0]:
            raise RefusedError(403, "requests from pages of other sites are refused")


def _is_own(name: str, host: str, names: frozenset[str]) -> bool:
    if name in _THIS_MACHINE or name == host or name in names:
        return True
    if host not in ("0.0.0.0", "::"):
        return False
    try:  # An address as `Host` is that of the connection: only names can be made to resolve elsewhere.
        ipaddress.ip_address(name)
    except ValueError:
        return name == socket.gethostname().lower()
    return True


def _address(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def require_upload(path: str, uploads: Path) -> Path:
    """The uploaded file at `path`, symbolic links resolved.

    Raises:
        RefusedError: it is not a regular file in the folder `uploads`. The reason is the same whether it exists or not.
    """
    try:
        # Paths of other folders are not even looked up.
        resolved = Path(path).resolve(strict=True) if Path(path).is_relative_to(uploads) else None
    except (OSError, ValueError, RuntimeError):  # missing, a null byte, a loop of links
        resolved = None
    if resolved is None or not resolved.is_relative_to(uploads) or not resolved.is_file():
        raise RefusedError(
            404, "the image is not an upload of this page, or is no longer kept; upload it again"
        )
    return resolved


def check_prediction(body: bytes, uploads: Path) -> None:
    """Check that a request for a prediction is JSON whose `data` is one uploaded file, the number of an example, or null.

    Raises:
        RefusedError: it is something else.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the request is not JSON") from None
    data = request.get("data") if isinstance(request, dict) else None
    if not isinstance(data, list) or len(data) != 1:
        raise RefusedError(400, 'expected "data": [FILE], where FILE is an uploaded image')
    file = data[0]
    if file is None or type(file) is int:
        return
    if (
        not isinstance(file, dict)
        or not file.keys() <= _FILE_FIELDS
        or file.get("meta") != _FILE_MARK
        or not isinstance(file.get("path"), str)
        or file.get("is_stream")
    ):
        raise RefusedError(
            400, f'expected an uploaded image {{"path": PATH, "meta": {json.dumps(_FILE_MARK)}}}'
        )
    require_upload(file["path"], uploads)


def remove_oldest(folder: Path, max_bytes: int, kept: frozenset[Path] = frozenset()) -> None:
    """Remove the oldest files of a folder, but none of `kept`, until the others have `max_bytes` at most."""
    found = []
    for path in set(folder.rglob("*")) - kept:
        try:
            status = path.lstat()
        except FileNotFoundError:  # another request has removed it
            continue
        if not path.is_dir():
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size


def _bounded(receive: Receive, max_bytes: int, answer: _Answer) -> Receive:
    """`receive` with bounds on the size and the time of the body."""
    deadline = time.monotonic() + _REQUEST_SECONDS
    left, is_over = max_bytes, False

    async def bounded() -> Message:
        nonlocal left, is_over
        if is_over:  # waits for the end of the connection
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), min(_PAUSE_SECONDS, deadline - time.monotonic()))
        except asyncio.TimeoutError:  # Python 3.10 has two of them
            answer.refused = RefusedError(408, "the request did not arrive in time")
            raise answer.refused from None
        left -= len(message.get("body", b""))
        if left < 0:
            answer.refused = RefusedError(413, f"the request is larger than {max_bytes / 1e6:.2f} MB")
            raise answer.refused
        is_over = not message.get("more_body", False)
        return message

    return bounded


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A source that gives a body that was already read, and then waits for the end of the connection."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


class _Answer:
    """Sends the page's answer, or a refusal where the answer has not begun. `refused` is set by who finds it out."""

    def __init__(self, send: Send, language: str, *, is_json: bool = False) -> None:
        self._send = send
        self._language = language
        self._is_json = is_json
        self._begun = False
        self.refused: RefusedError | None = None

    async def __call__(self, message: Message) -> None:
        if self.refused is None or self._begun:
            self._begun = True
            await self._send(message)

    async def finish(self) -> None:
        if self.refused is None or self._begun:
            return
        reason = self.refused.reason
        kind = "application/json" if self._is_json else "text/plain; charset=utf-8"
        if self._is_json:  # for programs, which do not have a language
            text = json.dumps({"error": reason}, ensure_ascii=False).encode()
        else:
            text = f"{shown_reason(reason, self._language)}\n".encode()
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(text)).encode()),
            (b"connection", b"close"),
        ]
        await self._send({"type": "http.response.start", "status": self.refused.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": text})
