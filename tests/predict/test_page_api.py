"""`POST /predict` and `GET /health` behind the access rules of the page, as an ASGI application."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from PIL import Image

from beit.predict.page import PagePredictor
from beit.predict.page_access import Access
from beit.predict.page_api import Api

OWN = [(b"host", b"127.0.0.1:7860")]


@pytest.fixture
def photo(image_file):
    return image_file.read_bytes()


async def other_routes(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def ask(application, folder, method, path, body=b"", headers=OWN):
    """Status and JSON of an answer to a request that passes `Access`."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    access = Access(application, "127.0.0.1", frozenset(), folder, 5_000)
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(access(scope, receive, send))
    answer = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(answer) if answer else None


@pytest.fixture
def api(predictor):
    return Api(
        other_routes, PagePredictor(predictor, topk=2, max_bytes=5_000, max_pixels=1_000), "output/run"
    )


def test_the_answer_is_the_predictor_s_own(api, predictor, photo, tmp_path):
    status, answer = ask(api, tmp_path, "POST", "/predict", photo)
    expected = predictor([Image.open(io.BytesIO(photo))], topk=2)[0]
    assert status == 200 and answer == predictor.summary(expected, 2)
    assert [row["class"] for row in answer["topk"]] == [row["class"] for row in expected["topk"]]


def test_health_names_the_model(api, tmp_path):
    assert ask(api, tmp_path, "GET", "/health") == (
        200,
        {"status": "ok", "model": "output/run", "task": "classify", "classes": 3, "image_size": [16, 16]},
    )


def test_refused_bodies(api, photo, tmp_path):
    many, tiff = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (100, 100)).save(many, "PNG")
    Image.new("RGB", (10, 10)).save(tiff, "TIFF")
    for body, status, words in (
        (b"", 400, "curl --data-binary @photo.jpg"),
        (b"no image", 400, "no image in one of the formats"),
        (photo[:900], 400, "cannot be decoded"),
        (many.getvalue(), 400, "100 x 100 pixels are more than"),
        (tiff.getvalue(), 400, "its format is TIFF; the page takes"),
        (bytes(5_001), 413, "larger than 0.01 MB"),
    ):
        found, answer = ask(api, tmp_path, "POST", "/predict", body)
        assert found == status and words in answer["error"], (body[:20], answer)
    form = [*OWN, (b"content-type", b"multipart/form-data; boundary=x")]
    status, answer = ask(api, tmp_path, "POST", "/predict", photo, form)
    assert status == 415 and "the image file itself" in answer["error"]


@pytest.mark.parametrize("method, path", [("POST", "/predict"), ("GET", "/health")])
def test_host_and_origin_rules_are_those_of_the_page(api, photo, tmp_path, method, path):
    for headers in ([(b"host", b"evil.example")], [*OWN, (b"origin", b"http://evil.example")], []):
        status, answer = ask(api, tmp_path, method, path, photo, headers)
        assert status == 403 and answer["error"]
    own = [*OWN, (b"origin", b"http://127.0.0.1:7860")]
    assert ask(api, tmp_path, method, path, photo, own)[0] == 200


def test_other_methods_and_routes(api, tmp_path):
    status, answer = ask(api, tmp_path, "GET", "/predict")
    assert status == 404 and answer["error"].endswith("send an image with POST")
    assert ask(api, tmp_path, "GET", "/")[0] == 204  # the page answers


def test_too_many_waiting_images_are_refused(api, photo, tmp_path):
    api._waiting = 64
    status, answer = ask(api, tmp_path, "POST", "/predict", photo)
    assert status == 503 and "try again later" in answer["error"]
    api._waiting = 0
    assert ask(api, tmp_path, "POST", "/predict", b"no image")[0] == 400
    assert api._waiting == 0
