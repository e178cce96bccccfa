"""Requests that the web page answers and refuses, without the page: as an ASGI application."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest

from beit.predict import page_access
from beit.predict.page_access import Access, RefusedError, check_origin, remove_oldest, require_upload

OWN = [(b"host", b"127.0.0.1:7860")]
MARK = {"_type": "gradio.FileData"}


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / "uploads"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "a.png").write_bytes(b"image")
    (tmp_path / "private.png").write_bytes(b"private")
    (folder / "0" / "link.png").symlink_to(tmp_path / "private.png")
    (folder / "0" / "loop.png").symlink_to(folder / "0" / "loop.png")
    os.mkfifo(folder / "0" / "pipe.png")
    return folder.resolve()


class Page:
    """Stands for gradio: reads the body, answers 200 with it, and records what it was asked."""

    def __init__(self):
        self.asked = []

    async def __call__(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.asked.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def request(uploads, method, path, *parts, headers=OWN, page=None, pause=0.0, max_bytes=1000, kind="http"):
    """The status and text of an answer, and what reached the page."""
    page = page or Page()
    messages = [
        {"type": "http.request", "body": part, "more_body": k < len(parts)} for k, part in enumerate(parts, 1)
    ] or [{"type": "http.request", "body": b""}]
    sent = []

    async def receive():
        await asyncio.sleep(pause)
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    access = Access(page, "127.0.0.1", frozenset({"demo.example.org"}), uploads, max_bytes)
    scope = {"type": kind, "method": method, "path": path, "headers": headers}
    asyncio.run(access(scope, receive, send))
    if kind != "http":
        return sent, "", page.asked
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode(), page.asked


def prediction(path, **fields):
    return json.dumps({"data": [{"path": str(path), "meta": MARK} | fields]}).encode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/config"),
        ("GET", "/assets/index-1a.js"),
        ("GET", "/gradio_api/heartbeat/3ab"),
        ("GET", "/gradio_api/queue/data"),
        ("GET", "/gradio_api/call/look/0123ab"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/cancel"),
    ],
)
def test_requests_of_the_page_are_answered(uploads, method, path):
    status, _, asked = request(uploads, method, path, b"12", b"3")
    assert status == 200 and asked[0][:2] == (method, path) and asked[0][2] == b"123"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=http://10.0.0.1/"),
        ("GET", "/gradio_api/proxy=http://10.0.0.1/"),
        ("POST", "/gradio_api/run/look"),
        ("POST", "/gradio_api/api/look"),
        ("POST", "/gradio_api/call/v2/look"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/monitoring"),
        ("OPTIONS", "/gradio_api/upload"),
        ("PUT", "/"),
        ("GET", "/config\nx"),
    ],
)
def test_other_routes_are_refused(uploads, method, path):
    status, text, asked = request(uploads, method, path)
    assert status == 404 and text.count("\n") == 1 and not asked


def test_websockets_are_refused(uploads):
    sent, _, asked = request(uploads, "", "/", kind="websocket")
    assert sent == [{"type": "websocket.close", "code": 1008}] and not asked


def test_a_prediction_is_of_an_upload(uploads):
    body = prediction(uploads / "0" / "a.png", orig_name="a.png", url="x", size=5)
    for path in ("/gradio_api/queue/join", "/gradio_api/call/look"):
        status, _, asked = request(uploads, "POST", path, body[:10], body[10:])
        assert status == 200 and asked == [("POST", path, body)]
    assert request(uploads, "POST", "/gradio_api/call/look", b'{"data": [null]}')[0] == 200
    assert request(uploads, "GET", f"/gradio_api/file={uploads}/0/a.png")[0] == 200


def test_other_files_are_refused_with_the_same_words_whether_they_exist_or_not(uploads, tmp_path):
    paths = [
        tmp_path / "private.png",
        tmp_path / "missing.png",
        "/dev/tty",
        "/dev/zero",
        "private.png",
        "",
        "\0",
        "http://10.0.0.1/a.png",
        uploads,
        uploads / "0" / "link.png",
        uploads / "0" / "loop.png",
        uploads / "0" / "pipe.png",
        uploads / "0" / ".." / ".." / "private.png",
        uploads / "0" / "missing.png",
    ]
    answers = {request(uploads, "POST", "/gradio_api/call/look", prediction(path))[:2] for path in paths}
    answers |= {request(uploads, "GET", f"/gradio_api/file={path}")[:2] for path in paths}
    assert len(answers) == 1
    status, text = answers.pop()
    assert status == 404 and "is not an upload of this page" in text
    for path in paths:
        with pytest.raises(RefusedError):
            require_upload(str(path), uploads)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 50_000,
        b'{"data": "x"}',
        b'{"data": []}',
        b'{"data": [null, null]}',
        b'{"data": ["%s/0/a.png"]}',
        b'{"data": [{"path": "%s/0/a.png"}]}',
        b'{"data": [{"path": "%s/0/a.png", "meta": {"_type": "x"}}]}',
        b'{"data": [{"path": "%s/0/a.png", "meta": {"_type": "gradio.FileData"}, "is_stream": true}]}',
        b'{"data": [{"path": "%s/0/a.png", "meta": {"_type": "gradio.FileData"}, "more": {"path": "/etc/passwd"}}]}',
        b'{"data": [{"path": 3, "meta": {"_type": "gradio.FileData"}}]}',
    ],
)
def test_predictions_of_something_else_are_refused(uploads, body):
    status, text, asked = request(
        uploads, "POST", "/gradio_api/queue/join", body.replace(b"%s", bytes(uploads))
    )
    assert status == 400 and text.count("\n") == 1 and not asked


@pytest.mark.parametrize(
    ("host", "origin", "accepted"),
    [
        ("127.0.0.1:7860", None, True),
        ("localhost:7860", "http://localhost:7860", True),
        ("LOCALHOST:7860", "http://localhost:7860", True),
        ("[::1]:7860", None, True),
        ("localhost:8000", "http://localhost:8000", True),  # a tunnel
        ("demo.example.org", "https://demo.example.org", True),
        ("evil.example:7860", None, False),  # DNS rebinding
        ("evil.example:7860", "http://evil.example:7860", False),
        ("127.0.0.1.evil.example:7860", None, False),
        ("127.0.0.1:7860", "http://evil.example", False),
        ("127.0.0.1:7860", "http://localhost:7860", False),
        ("127.0.0.1:7860", "http://127.0.0.1:3000", False),
        ("127.0.0.1:7860", "null", False),
        ("127.0.0.1:7860", "http://[", False),
        ("127.0.0.1@evil.example", None, False),
        ("", None, False),
        (None, None, False),
        ("192.168.1.5:7860", None, False),
    ],
)
def test_host_and_origin(uploads, host, origin, accepted):
    headers = [
        (name, value.encode()) for name, value in ((b"host", host), (b"origin", origin)) if value is not None
    ]
    status, text, asked = request(uploads, "GET", "/", headers=headers)
    assert (status == 200) == accepted == bool(asked)
    if not accepted:
        assert status == 403 and text.count("\n") == 1


def test_a_refusal_is_in_the_language_of_the_browser(uploads):
    status, text = request(uploads, "GET", "/", headers=[(b"host", b"evil"), (b"accept-language", b"zh-CN")])[
        :2
    ]
    assert status == 403 and "主机 evil 不是此网页的主机" in text


def test_two_hosts_are_refused(uploads):
    assert request(uploads, "GET", "/", headers=OWN + [(b"host", b"evil.example")])[0] == 403


def test_hosts_of_a_page_that_listens_on_all_addresses():
    for name in ("192.168.1.5:7860", "[fe80::1]:7860", f"{socket.gethostname()}:7860", "localhost"):
        check_origin([(b"host", name.encode())], "0.0.0.0", frozenset())
    with pytest.raises(RefusedError, match="--allow-host NAME"):
        check_origin([(b"host", b"evil.example:7860")], "0.0.0.0", frozenset())


def test_sizes_are_limited(uploads, monkeypatch):
    monkeypatch.setattr(page_access, "_UPLOAD_OVERHEAD", 100)
    assert request(uploads, "POST", "/gradio_api/upload", bytes(600), bytes(500))[0] == 200
    for path, parts in (
        ("/gradio_api/upload", [bytes(600), bytes(501)]),
        ("/gradio_api/call/look", [bytes(40_000)] * 2),
        ("/gradio_api/cancel", [bytes(40_000)] * 2),
        ("/config", [bytes(40_000)] * 2),
    ):
        status, text, asked = request(uploads, "GET" if path == "/config" else "POST", path, *parts)
        assert status == 413 and "larger than" in text and not asked


def test_times_are_limited(uploads, monkeypatch):
    for name in ("_PAUSE_SECONDS", "_REQUEST_SECONDS"):
        with monkeypatch.context() as patch:
            patch.setattr(page_access, name, 0.02)
            status, text, asked = request(uploads, "POST", "/gradio_api/upload", b"1", b"2", pause=0.05)
            assert status == 408 and "in time" in text and not asked


def test_a_refusal_replaces_the_error_page_of_the_application(uploads):
    async def page(scope, receive, send):
        try:
            await receive()
        except RefusedError:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"error"})
            raise ValueError("of the page") from None

    page.asked = []
    status, text, _ = request(uploads, "POST", "/gradio_api/upload", bytes(10**6), page=page)
    assert status == 413 and "error" not in text


def test_errors_of_the_application_are_raised(uploads):
    async def page(scope, receive, send):
        raise ZeroDivisionError

    page.asked = []
    with pytest.raises(ZeroDivisionError):
        request(uploads, "GET", "/", page=page)


def test_the_oldest_uploads_are_removed(uploads, tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for k in range(5):
        (folder / f"{k}").write_bytes(bytes(10))
        os.utime(folder / f"{k}", (k, k))
    remove_oldest(folder, 50)
    assert len(list(folder.iterdir())) == 5
    remove_oldest(folder, 29)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]
    remove_oldest(folder, 0, frozenset({folder / "3"}))  # an example of the page
    assert [path.name for path in folder.iterdir()] == ["3"]
    monkeypatch.setattr(page_access, "_KEPT_UPLOADS", 0)
    request(uploads, "POST", "/gradio_api/upload", b"1")
    assert not any(path.is_file() for path in uploads.rglob("*")) and (tmp_path / "private.png").exists()
