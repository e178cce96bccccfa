"""The web page, over HTTP and in a headless Chromium. Marked `browser`: needs gradio, playwright and Chromium."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.__main__ import main
from beit.beit import build_beit
from beit.config import dump
from beit.predict.inference import inference_model
from beit.predict.page_text import TEXT
from beit.tools import serve
from tests.tiny import ROOT, environment, tiny_config

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
NAMES = ("flower", "temple", "neither")


def test_message_if_gradio_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r'pip install "beit-paddle\[serve\]"'):
        serve.build_page(None, Path("unused"))


def test_help_shows_the_examples_and_the_default_host_is_this_machine(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    said = capsys.readouterr().out
    assert all(line in said for line in serve.EXAMPLES)
    for line in serve.EXAMPLES:
        assert serve.build_parser().parse_args(shlex.split(line)[4:]).host == "127.0.0.1"


def test_a_taken_port_names_the_flag():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1:{port}: .*choose another --port"):
            serve._listen("127.0.0.1", port)


def test_examples_are_files_of_the_paths_given(tmp_path, capsys):
    for number in range(14):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number:02d}.png")
    found = serve._examples([str(tmp_path)])
    assert [path.name for path in found] == [f"{number:02d}.png" for number in range(12)]
    assert "the first 12 of 14 images" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"gone\.png does not exist"):
        serve._examples([str(tmp_path / "gone.png")])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The output folder of a tiny classifier's training run."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config("unused", str(folder))
    paddle.seed(3)
    model = build_beit(config)
    model.head.weight.set_value(paddle.randn(model.head.weight.shape))
    (folder / "config.yaml").write_text(dump(config))
    (folder / "class_names.txt").write_text("\n".join(NAMES))
    paddle.save(model.state_dict(), str(folder / "model.pdparams"))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "good.jpg")
    (folder / "garbage.jpg").write_bytes(np.random.default_rng(1).bytes(10_000))
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:1_500])
    Image.new("RGB", (2_000, 1_500)).save(folder / "many.png")
    (folder / "large.jpg").write_bytes(bytes(1_500_000))
    Image.fromarray(pixels).save(folder / "a.tif")
    return folder


@pytest.fixture(scope="module")
def address(run, images):
    """The address of a page that `python -m beit serve` serves in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(run, port, environment(), images / "good.jpg") as process:
        yield f"http://127.0.0.1:{port}"
        assert process.poll() is None  # it has survived all tests


@contextmanager
def serving(
    run: Path, port: int, variables: dict[str, str], examples: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a page that answers."""
    command = [sys.executable, "-m", "beit", "serve", str(run), "--port", str(port)]
    limits = ["--max-megabytes", "1", "--max-megapixels", "2", "--device", "cpu", "--topk", "3"]
    if examples is not None:
        limits += ["--examples", str(examples)]
    with subprocess.Popen([*command, *limits], cwd=ROOT, env=variables) as process:
        try:
            for _ in range(240):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None
                    time.sleep(0.5)
            yield process
        finally:
            process.terminate()


def ask(address: str, file: Path) -> list:
    """The page's result for a file: scores, image, caption."""
    import httpx

    with httpx.Client(base_url=f"{address}/gradio_api", timeout=60, trust_env=False) as client:
        with file.open("rb") as stream:
            sent = client.post("/upload", files={"files": (file.name, stream)})
        sent.raise_for_status()
        given = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}, "orig_name": file.name}
        event = client.post("/call/look", json={"data": [given]}).json()["event_id"]
        with client.stream("GET", f"/call/look/{event}") as answer:
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: null":
                    return json.loads(line[6:])
    raise AssertionError("no answer")


def expected(run: Path, file: Path) -> list:
    rows = inference_model(run, file, topk=3)["topk"]
    return [(row["class"], pytest.approx(row["score"], abs=1e-4)) for row in rows]


@pytest.mark.browser
def test_results_and_refused_files(address, run, images):
    import httpx

    scores, drawn, caption = ask(address, images / "good.jpg")
    assert [(row["label"], row["confidence"]) for row in scores["confidences"]] == expected(
        run, images / "good.jpg"
    )
    assert drawn["url"].startswith(address) and "attention" in caption
    for name, words in (
        ("garbage.jpg", "no image in one of the formats"),
        ("cut.jpg", "cannot be decoded"),
        ("many.png", "2000 x 1500 pixels; images of up to 2000000 pixels are accepted"),
        ("a.tif", "its format is TIFF; the page takes JPEG"),
    ):
        scores, drawn, caption = ask(address, images / name)
        assert not scores and drawn is None and words in caption
    with pytest.raises(httpx.HTTPStatusError, match="413"):
        ask(address, images / "large.jpg")


@pytest.mark.browser
def test_json_for_a_plain_http_client(address, run, images):
    """`POST /predict` and `GET /health` as documented, with nothing but `http.client`."""
    host, port = address.removeprefix("http://").split(":")

    def request(method, path, body=None, headers=None):
        with closing(HTTPConnection(host, int(port), timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            with connection.getresponse() as answer:
                assert answer.headers["Content-Type"] == "application/json"
                return answer.status, json.loads(answer.read())

    status, answer = request("POST", "/predict", (images / "good.jpg").read_bytes())
    assert status == 200
    assert [(row["class"], row["score"]) for row in answer["topk"]] == expected(run, images / "good.jpg")
    status, answer = request("GET", "/health")
    assert status == 200 and answer["status"] == "ok" and answer["classes"] == 3
    for name, status, words in (
        ("garbage.jpg", 400, "no image in one of the formats"),
        ("many.png", 400, "2000 x 1500 pixels"),
        ("large.jpg", 413, "larger than"),
    ):
        found, answer = request("POST", "/predict", (images / name).read_bytes())
        assert found == status and words in answer["error"]
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert request("GET", "/health", headers=headers)[0] == 403
        assert request("POST", "/predict", (images / "good.jpg").read_bytes(), headers)[0] == 403


@pytest.mark.browser
def test_many_clients_are_served_while_one_is_slow(address, run, images):
    """50 clients, every fifth with garbage, while another one does not finish its upload."""
    host, port = address.removeprefix("http://").split(":")
    slow = socket.create_connection((host, int(port)))
    slow.sendall(
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100000\r\n\r\n-"
    )
    files = [images / ("garbage.jpg" if k % 5 == 0 else "good.jpg") for k in range(50)]
    start = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda file: ask(address, file), files))
    slow.sendall(b"-")
    slow.close()
    assert time.monotonic() - start < 60
    for file, (scores, _, _) in zip(files, answers, strict=True):
        assert (not scores) == (file.name == "garbage.jpg")


@pytest.mark.browser
def test_who_reaches_what(address, run, images):
    """Requests of a plain HTTP client that the page itself does not send."""
    import httpx

    port = address.rpartition(":")[2]
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        for headers in (
            {"Host": f"evil.example:{port}"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
        ):
            answer = client.get("/", headers=headers)
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
        answers = set()
        for path in (images / "good.jpg", images / "missing.jpg", "/dev/tty", "/etc/passwd"):
            for file in ({"path": str(path)}, {"path": str(path), "meta": {"_type": "gradio.FileData"}}):
                answer = client.post("/gradio_api/call/look", json={"data": [file]})
                answers.add((answer.status_code, answer.text))
            answers.add((client.get(f"/gradio_api/file={path}").status_code, ""))
        assert {status for status, _ in answers} == {400, 404} and len(answers) == 3
        with (images / "good.jpg").open("rb") as stream:
            uploaded = client.post("/gradio_api/upload", files={"files": ("a.jpg", stream)}).json()[0]
        assert client.get(f"/gradio_api/file={uploaded}").content == (images / "good.jpg").read_bytes()
        assert client.get(f"/gradio_api/file={Path(uploaded).parents[2]}").status_code == 404
        for path in (
            "/gradio_api/run/look",
            "/gradio_api/proxy=http://localhost/",
            "/monitoring",
            "/openapi.json",
        ):
            assert client.get(path).status_code == 404


@pytest.mark.browser
def test_connections_without_a_request_are_closed(address):
    host, port = address.removeprefix("http://").split(":")
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((host, int(port)), 20)) for _ in range(20)]
        for connection in silent[::2]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert [connection.recv(1) for connection in silent] == [b""] * 20


@pytest.mark.browser
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_uploads_are_removed_at_the_end(run, images, tmp_path, number):
    environment_of_page = environment() | {"TMPDIR": str(tmp_path)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(run, port, environment_of_page) as process:
        ask(f"http://127.0.0.1:{port}", images / "good.jpg")
        assert list(tmp_path.glob("beit-serve-*/*/*.jpg"))
        process.send_signal(number)
        assert process.wait(30) in (143, 130, -2)
    assert not list(tmp_path.glob("beit-serve-*"))


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_browser(address, run, images, tmp_path):
    """Upload an image and see its classes, upload garbage and see the message; no request goes to other machines."""
    from playwright.sync_api import expect, sync_playwright

    if CHROMIUM is None:
        pytest.fail("no Chromium is installed (Debian package: chromium)")
    asked = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 760})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        upload = page.locator("#image input[type=file]")
        upload.set_input_files(images / "good.jpg")
        expect(page.locator("#caption")).to_contain_text("attention", timeout=30_000)
        shown = page.locator("#scores").inner_text()
        for name, score in expected(run, images / "good.jpg"):
            assert name in shown and f"{100 * score.expected:.0f}%" in shown
        expect(page.locator("#drawn img")).to_be_visible()
        page.screenshot(path=tmp_path / "page.png")
        page.reload()
        upload.set_input_files(images / "garbage.jpg")
        expect(page.locator("#caption")).to_contain_text("cannot be used", timeout=30_000)
        page.reload()
        notes = []
        page.on("dialog", lambda dialog: (notes.append(dialog.message), dialog.accept()))
        (tmp_path / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(1000))
        upload.set_input_files(tmp_path / "IMG_0001.HEIC")
        assert notes == [TEXT["en"]["heic"]]
        chinese = browser.new_context(locale="zh-CN").new_page()
        chinese.on("request", lambda request: asked.append(request.url))
        chinese.goto(address)
        expect(chinese.get_by_text("拖入、选择或拍摄一张图片")).to_be_visible()
        chinese.locator("#examples img").first.click()
        expect(chinese.locator("#caption")).to_contain_text("注意力", timeout=30_000)
        expect(chinese.locator("#drawn img")).to_be_visible()
        browser.close()
    assert np.asarray(Image.open(tmp_path / "page.png")).std() > 5
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
