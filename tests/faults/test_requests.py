"""Requests to `beit serve` that its page does not send, to the gate before gradio. With gradio: tests/tools/test_serve.py."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from beit.predict.page_access import Access
from tests.faults.harness import Row

OWN = [(b"host", b"127.0.0.1:7860")]
LOOK = "/gradio_api/call/look"


def upload(path: object, mark: bool = True) -> bytes:
    meta = {"meta": {"_type": "gradio.FileData"}} if mark else {}
    return json.dumps({"data": [{"path": str(path)} | meta]}).encode()


# Name -> method, path, body (of the folder of the test), headers, and the status
REQUESTS: dict[str, tuple[str, str, Any, list[tuple[bytes, bytes]], int]] = {
    "an image of the machine by its path": ("POST", LOOK, lambda folder: upload(folder / "private.png"), OWN, 404),
    "the same without gradio's mark": ("POST", LOOK, lambda folder: upload(folder / "private.png", False), OWN, 400),
    "a path that does not exist": ("POST", LOOK, lambda folder: upload(folder / "missing.png"), OWN, 404),
    "a terminal": ("POST", LOOK, lambda folder: upload("/dev/tty"), OWN, 404),
    "a link from the upload folder to an image": ("POST", LOOK, lambda folder: upload(folder / "uploads/link.png"), OWN, 404),
    "a file of the machine by its route": ("GET", "/gradio_api/file=/etc/passwd", lambda folder: b"", OWN, 404),
    "another host (DNS rebinding)": ("GET", "/", lambda folder: b"", [(b"host", b"evil.example:7860")], 403),
    "another origin": ("POST", LOOK, lambda folder: b"", [*OWN, (b"origin", b"http://evil.example")], 403),
    "a body of 3 MB": ("POST", "/gradio_api/upload", lambda folder: bytes(3_000_000), OWN, 413),
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(tmp_path: Path, row: Row, name: str) -> None:
    row.fault, row.expected = (
        f"beit serve: {name}",
        "refused before the page sees it; the same words for every path",
    )
    method, path, body, headers, status = REQUESTS[name]
    (tmp_path / "uploads").mkdir()
    (tmp_path / "private.png").write_bytes(b"private")
    (tmp_path / "uploads/link.png").symlink_to(tmp_path / "private.png")
    messages = [{"type": "http.request", "body": body(tmp_path)}]
    reached: list[object] = []
    sent: list[dict[str, Any]] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        reached.append(scope)

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    access = Access(page, "127.0.0.1", frozenset(), (tmp_path / "uploads").resolve(), 2_000_000)
    begin = time.monotonic()
    asyncio.run(access({"type": "http", "method": method, "path": path, "headers": headers}, receive, send))
    row.seconds = time.monotonic() - begin
    text = b"".join(message.get("body", b"") for message in sent).decode()
    assert sent[0]["status"] == status and not reached, (sent, reached)
    assert str(tmp_path) not in text and "private" not in text
    row.seen = f"{status} {text.strip()}"
