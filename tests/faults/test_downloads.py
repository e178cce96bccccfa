"""Downloads and exported graphs that are not what they were: from a local server. In depth: tests/zoo, tests/deploy."""

from __future__ import annotations

import http.client
import http.server
import io
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.checkpoint.files import write
from beit.deploy.description import Description, digests, write_description
from beit.deploy.runner import load_runner
from beit.preprocessing import Preprocessing
from beit.zoo import download
from tests.faults.harness import Row


class Site(http.server.ThreadingHTTPServer):
    """Answers every request with `body`, whose length it does not state."""

    body = b""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:  # noqa: N802
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *given: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    server = Site(("127.0.0.1", 0), Handler)
    write(tmp_path / "source.pdparams", {"cls_token": np.arange(5000, dtype=np.float32)})
    server.body = (tmp_path / "source.pdparams").read_bytes()
    for name in ("BEIT_MIRROR", "BEIT_OFFLINE", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "cache"))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def refusal(site: Site) -> str:
    with pytest.raises(download.DownloadError) as caught:
        download.fetch(f"http://127.0.0.1:{site.server_port}/w.pdparams", "w.pdparams")
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_changed_file_of_the_cache(site: Site, row: Row) -> None:
    row.fault, row.expected = (
        "a bit of a cached file flips, no digest is published",
        "refused: not that of the first use",
    )
    path = download.fetch(f"http://127.0.0.1:{site.server_port}/w.pdparams", "w.pdparams")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    row.seen = refusal(site)
    assert "SHA-256" in row.seen


def test_a_body_without_end(site: Site, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    row.fault, row.expected = (
        "a body larger than any published file, of no stated length",
        "refused at the limit; no part stays",
    )
    monkeypatch.setattr(download, "_MAX_BYTES", 10_000)
    row.seen = refusal(site)
    assert "is refused: the file has" in row.seen
    left = sum(file.stat().st_size for file in download.cache_folder().iterdir())
    assert left < 100, f"{left} bytes are left in the cache"


def test_a_redirect_from_https(row: Row) -> None:
    row.fault, row.expected = "https is redirected to http", "refused"
    given = (
        urllib.request.Request("https://a.org/w"),
        io.BytesIO(),
        302,
        "Found",
        http.client.HTTPMessage(),
        "http://a.org/w",
    )
    with pytest.raises(Exception, match="from https to an unencrypted address") as caught:
        download._SafeRedirects().redirect_request(*given)
    row.seen = str(caught.value)


def test_the_password_of_a_mirror(site: Site, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    row.fault, row.expected = "a mirror with a password cannot be reached", "one line without the password"
    monkeypatch.setenv("BEIT_MIRROR", "http://me:secret@127.0.0.1:1")
    row.seen = refusal(site)
    assert "secret" not in row.seen


def test_a_flipped_bit_of_an_export(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = "a bit of exported weights flips", "refused before the engine starts"
    for name in ("model.json", "model.pdiparams"):
        (tmp_path / name).write_bytes(name.encode())
    images = Preprocessing((0.5,) * 3, (0.5,) * 3, 0.9, "bicubic", 4)
    described = Description("classify", "topk", ("scores", "classes"), (4, 4), True, images, ("a", "b"))
    write_description(tmp_path, replace(described, files=digests(tmp_path)))
    (tmp_path / "model.pdiparams").write_bytes(b"Model.pdiparams")
    with pytest.raises(ValueError, match="has changed since the export") as caught:
        load_runner(tmp_path, "paddle")
    row.seen = str(caught.value)
