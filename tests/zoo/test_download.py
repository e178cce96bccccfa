"""Downloads from a local server that can cut connections, send wrong data and count requests."""

from __future__ import annotations

import base64
import hashlib
import http.client
import http.server
import io
import subprocess
import sys
import threading
import traceback
import urllib.request

import numpy as np
import pytest

from beit.checkpoint.files import read, write
from beit.zoo import download


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        site = self.server
        ranged = self.headers.get("Range")
        site.requests.append((self.path, ranged))
        site.logins.append(self.headers.get("Authorization"))
        if self.path in site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects[self.path])
            self.end_headers()
            return
        if self.path not in site.files:
            self.send_error(403 if "private" in self.path else 404)
            return
        body = site.files[self.path]
        same = self.headers.get("If-Range") == site.etag
        start = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged and same and site.etag else 0
        self.send_response(206 if start else 200)
        if site.length is not None:
            self.send_header("Content-Length", site.length.format(len(body) - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else None
        self.wfile.write(body[start:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.cuts, server.etag = {}, [], [], '"1"'
    server.logins, server.redirects, server.length = [], {}, "{}"
    server.url = f"http://127.0.0.1:{server.server_port}"
    write(tmp_path / "source.pdparams", {"cls_token": np.arange(5000, dtype=np.float32)})
    server.weights = (tmp_path / "source.pdparams").read_bytes()
    server.files["/w.pdparams"] = server.weights
    for name in ("BEIT_MIRROR", "BEIT_OFFLINE", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def left_behind():
    return sorted(path.name for path in download.cache_folder().iterdir() if not path.name.endswith(".lock"))


def test_downloads_once(site):
    digest = hashlib.sha256(site.weights).hexdigest()
    path = download.fetch(f"{site.url}/w.pdparams", "w.pdparams", sha256=digest)
    assert path.read_bytes() == site.weights
    np.testing.assert_array_equal(read(path).tree["cls_token"], np.arange(5000, dtype=np.float32))
    assert download.fetch(f"{site.url}/w.pdparams", "w.pdparams") == path
    assert site.requests == [("/w.pdparams", None)]
    assert left_behind() == ["w.pdparams", "w.pdparams.sha256"]
    record = download.cache_folder() / "w.pdparams.sha256"
    assert record.read_text() == f"{digest}  w.pdparams\n"


def test_an_interrupted_download_continues(site):
    site.cuts = [7000, 12000]
    path = download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    assert path.read_bytes() == site.weights
    assert [ranged for _, ranged in site.requests] == [None, "bytes=7000-", "bytes=12000-"]


def test_an_interrupted_download_continues_in_the_next_run(site):
    site.cuts = [1000, 1000, 1000, 1000, 1000]
    with pytest.raises(
        download.DownloadError, match="could not be fetched in 5 attempts: .*What arrived is kept"
    ):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    assert "w.pdparams.part" in left_behind()
    path = download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    assert path.read_bytes() == site.weights
    assert site.requests[-1] == ("/w.pdparams", "bytes=1000-")


def test_starts_again_when_the_file_changed_or_has_no_tag(site):
    site.cuts = [1000] * 5
    with pytest.raises(download.DownloadError):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    site.etag = '"2"'
    assert download.fetch(f"{site.url}/w.pdparams", "w.pdparams").read_bytes() == site.weights
    site.etag, site.cuts = "", [1000]
    assert download.fetch(f"{site.url}/w.pdparams", "again.pdparams").read_bytes() == site.weights
    assert site.requests[-1] == ("/w.pdparams", None)


def test_the_error_of_a_dead_link_names_the_path_for_the_file(site):
    with pytest.raises(download.DownloadError, match="is a dead link: HTTP 404") as caught:
        download.fetch(f"{site.url}/gone.pth", "gone.pth", page="https://example.org/zoo")
    text = str(caught.value)
    assert "Download the published file by hand (https://example.org/zoo) and save it as" in text
    assert str(download.cache_folder() / "gone.pth") in text
    assert len(site.requests) == 1


def test_a_refusal_is_not_called_a_dead_link(site):
    with pytest.raises(
        download.DownloadError, match="private.pth cannot be read: HTTP 403 Forbidden. Download the pub"
    ):
        download.fetch(f"{site.url}/private.pth", "private.pth")


def test_no_network(site):
    site.shutdown()
    site.server_close()
    with pytest.raises(download.DownloadError, match="in 5 attempts: .*refused.*Is there a network"):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!doctype html><html>sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"", "empty"),
    ],
)
def test_a_response_without_weights_is_refused(site, body, words):
    site.files["/x.pth"] = body
    with pytest.raises(download.DownloadError, match=f"did not give the weights: {words}"):
        download.fetch(f"{site.url}/x.pth", "x.pth")
    assert "x.pth" not in left_behind()
    assert "x.pth.part" not in left_behind()


def test_a_wrong_digest(site):
    with pytest.raises(download.DownloadError, match="its SHA-256 is [0-9a-f]{64}, expected 00112233"):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams", sha256="00112233")
    assert left_behind() in (["w.pdparams.part.etag"], [])


def test_offline(site, monkeypatch):
    monkeypatch.setenv("BEIT_OFFLINE", "1")
    with pytest.raises(
        download.DownloadError, match="w.pdparams is not in the cache and BEIT_OFFLINE is set"
    ):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    download.cache_folder().mkdir(parents=True)
    (download.cache_folder() / "w.pdparams").write_bytes(site.weights)
    assert download.fetch(f"{site.url}/w.pdparams", "w.pdparams").read_bytes() == site.weights
    assert site.requests == []


def test_mirrors(site, monkeypatch):
    site.files["/mirror/name.pdparams"] = site.weights
    monkeypatch.setenv("BEIT_MIRROR", f"{site.url}/mirror/")
    assert download.fetch("https://example.org/dead.pdparams", "name.pdparams").is_file()
    monkeypatch.delenv("BEIT_MIRROR")
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    assert download.fetch("https://huggingface.co/w.pdparams", "hub.pdparams").is_file()


def test_no_address(site):
    with pytest.raises(download.DownloadError, match="x.pdparams has no address that a program can read"):
        download.fetch("", "x.pdparams")


@pytest.mark.slow
def test_two_processes_at_once_download_once(site):
    program = f"from beit.zoo.download import fetch; fetch('{site.url}/w.pdparams', 'w.pdparams')"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait(20) for process in processes] == [0, 0]
    assert len(site.requests) == 1


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("BEIT_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "beit"


def test_a_file_of_the_cache_is_compared_with_its_digests(site):
    digest = hashlib.sha256(site.weights).hexdigest()
    path = download.fetch(f"{site.url}/w.pdparams", "w.pdparams", sha256=digest[:8])
    path.write_bytes(site.weights[:-1] + bytes([site.weights[-1] ^ 1]))
    with pytest.raises(
        download.DownloadError, match=f"is not the published file: its SHA-256 .* expected {digest[:8]}"
    ):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams", sha256=digest[:8])
    with pytest.raises(
        download.DownloadError, match=f"changed since its first use.*recorded is {digest}; delete"
    ) as caught:
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    assert str(path) in str(caught.value) and f"{path}.sha256" in str(caught.value)
    path.unlink()
    assert download.fetch(f"{site.url}/w.pdparams", "w.pdparams").read_bytes() == site.weights


def test_a_digest_is_recorded_at_the_first_use_and_compared_with_later_downloads(site):
    folder = download.cache_folder()
    folder.mkdir(parents=True)
    (folder / "w.pdparams").write_bytes(site.weights)  # downloaded by hand
    download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    record = folder / "w.pdparams.sha256"
    assert record.read_text().startswith(hashlib.sha256(site.weights).hexdigest())
    (folder / "w.pdparams").unlink()
    write(folder.parent / "other.pdparams", {"cls_token": np.ones(3, np.float32)})
    site.files["/w.pdparams"] = (folder.parent / "other.pdparams").read_bytes()
    with pytest.raises(download.DownloadError, match="that of the first download in .*w.pdparams.sha256 is"):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    record.write_text("damaged")
    with pytest.raises(
        download.DownloadError, match="w.pdparams.sha256 is damaged, it holds no SHA-256; delete it"
    ):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    record.unlink()
    assert download.fetch(f"{site.url}/w.pdparams", "w.pdparams").read_bytes() == site.files["/w.pdparams"]


@pytest.mark.parametrize("length", ["{}", None, "x", "-5"])
def test_the_size_is_limited(site, monkeypatch, length):
    """Whether the server states the size or not."""
    site.length = length
    monkeypatch.setattr(download, "_MAX_BYTES", len(site.weights))
    assert download.fetch(f"{site.url}/w.pdparams", "w.pdparams").read_bytes() == site.weights
    monkeypatch.setattr(download, "_MAX_BYTES", len(site.weights) - 1)
    with pytest.raises(
        download.DownloadError, match="is refused: the file has .*GB.*Download the published file by hand"
    ):
        download.fetch(f"{site.url}/w.pdparams", "again.pdparams")
    assert len(site.requests) == 2 and "again.pdparams.part" not in left_behind()


def test_a_declared_size_is_refused_before_the_body(site):
    site.length = str(9 << 30)
    with pytest.raises(download.DownloadError, match="the file has 9.7 GB, more than 8.6 GB"):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")


def test_a_transfer_that_is_too_slow_counts_as_interrupted(site, monkeypatch):
    site.etag = ""  # each attempt starts again
    monkeypatch.setattr(download, "_PATIENCE", -1.0)
    monkeypatch.setattr(download, "_MIN_RATE", 10**12)
    with pytest.raises(download.DownloadError, match="in 5 attempts: .* bytes arrived in 0 s"):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")


def test_redirects_never_leave_https(site):
    handler = download._SafeRedirects()
    for old, new, accepted in (
        ("https://a.org/w", "https://b.org/w", True),
        ("https://a.org/w", "http://a.org/w", False),
        ("https://a.org/w", "ftp://a.org/w", False),
        ("http://a.org/w", "http://b.org/w", True),
        ("http://a.org/w", "https://a.org/w", True),
    ):
        arguments = (urllib.request.Request(old), io.BytesIO(), 302, "Found", http.client.HTTPMessage(), new)
        if accepted:
            assert handler.redirect_request(*arguments).full_url == new
        else:
            with pytest.raises(download._RefusedError, match="from https to an unencrypted address"):
                handler.redirect_request(*arguments)
    site.redirects["/moved"] = f"{site.url}/w.pdparams"
    assert download.fetch(f"{site.url}/moved", "w.pdparams").read_bytes() == site.weights
    site.redirects["/file"] = "file:///etc/passwd"
    with pytest.raises(download.DownloadError, match="is a dead link: HTTP 302"):
        download.fetch(f"{site.url}/file", "file.pdparams")


def test_the_password_of_a_mirror_is_sent_but_never_repeated(site, monkeypatch, caplog, capfd):
    place = site.url.removeprefix("http://")
    monkeypatch.setenv("BEIT_MIRROR", f"http://me:se%40cret@{place}")
    assert download.fetch("https://example.org/x", "w.pdparams").read_bytes() == site.weights
    assert site.logins == ["Basic " + base64.b64encode(b"me:se@cret").decode()]
    messages = []
    for mirror, name in (
        (f"http://me:se%40cret@{place}", "gone.pdparams"),
        ("http://me:se%40cret@127.0.0.1:1", "w2.pdparams"),
        (f"me:se%40cret@{place}", "w3.pdparams"),
        ("http://me:se%40cret@[", "w4.pdparams"),
        ("http://me:se%40cret", "w5.pdparams"),
        ("ftp://me:se%40cret@127.0.0.1", "w6.pdparams"),
        ("https://", "w7.pdparams"),
    ):
        monkeypatch.setenv("BEIT_MIRROR", mirror)
        with pytest.raises(download.DownloadError) as caught:
            download.fetch("https://example.org/x", name)
        messages.append("".join(traceback.format_exception(caught.value)))
        assert "\n" not in str(caught.value)
    assert "cret" not in "".join([*messages, caplog.text, *capfd.readouterr()])


def test_the_password_is_not_sent_to_the_target_of_a_redirect(site, monkeypatch):
    site.redirects["/w.pdparams"] = f"{site.url}/real.pdparams"
    site.files["/real.pdparams"] = site.weights
    monkeypatch.setenv("BEIT_MIRROR", site.url.replace("http://", "http://me:secret@"))
    assert download.fetch("", "w.pdparams").read_bytes() == site.weights
    assert [login is None for login in site.logins] == [False, True]


def test_mirrors_in_the_file_system(site, monkeypatch, tmp_path):
    monkeypatch.setenv("BEIT_MIRROR", tmp_path.as_uri())
    assert download.fetch("", "source.pdparams").read_bytes() == site.weights


def test_the_text_of_a_server_is_printed_without_control_characters(site, monkeypatch):
    def answer(self):
        self.send_response(404, "gone\x1b[31m")
        self.end_headers()

    monkeypatch.setattr(Handler, "do_GET", answer)
    with pytest.raises(download.DownloadError, match="HTTP 404") as caught:
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
    assert str(caught.value).isprintable()


def test_a_full_disk(site, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(
        download.DownloadError, match=r"cannot be saved as .*w\.pdparams\.part: No space left"
    ):
        download.fetch(f"{site.url}/w.pdparams", "w.pdparams")
