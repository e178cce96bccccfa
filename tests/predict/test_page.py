"""Results of the web page and files that it refuses, without the page itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from beit.beit import build_beit
from beit.data.images import FORMATS, ImageError
from beit.predict import classifier as module
from beit.predict.attention_maps import overlay
from beit.predict.classifier import classifier
from beit.predict.page import SHOWN_FORMATS, PagePredictor
from tests.tiny import tiny_config


def test_scores_are_those_of_the_predictor(predictor, image_file):
    result = PagePredictor(predictor, topk=3)(image_file)
    image = Image.open(image_file)
    expected = {
        row["class"] + (f" ({row['label']})" if row["class"] == "crane" else ""): row["score"]
        for row in predictor([image])[0]["topk"]
    }
    assert result.scores == expected and len(expected) == 3
    assert max(result.image.size) == 640
    values = predictor.attention_rollout(predictor.attentions(image))
    shown = predictor.view(image).resize((640, 640), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(overlay(shown, values)))
    assert result.caption == "attention through all blocks"


def test_large_models_show_the_attention_of_their_last_block(predictor, image_file, monkeypatch):
    monkeypatch.setattr(module, "_ROLLOUT_BYTES", 10)
    assert PagePredictor(predictor)(image_file).caption == "attention of the last block"


def test_scores_of_a_segmentation_model_are_areas(segmenter):
    model, folder = segmenter
    result = PagePredictor(model, topk=2)(folder / "0.png")
    classes = model.class_map(Image.open(folder / "0.png"))
    best = np.bincount(classes.ravel()).argmax()
    assert next(iter(result.scores)) == model.class_names[best]
    assert result.scores[model.class_names[best]] == pytest.approx((classes == best).mean(), abs=1e-6)
    assert result.image.height >= 640 * 0.5


def test_refused_files_and_models(predictor, image_file, tmp_path):
    page_predictor = PagePredictor(predictor, max_bytes=5_000, max_pixels=1_000)
    (tmp_path / "garbage.jpg").write_bytes(np.random.default_rng(0).bytes(4_000))
    (tmp_path / "large.jpg").write_bytes(bytes(10_000))
    Image.new("RGB", (100, 100)).save(tmp_path / "many.png")
    Image.new("RGB", (10, 10)).save(tmp_path / "a.tif")
    cut = image_file.read_bytes()[:900]
    (tmp_path / "cut.png").write_bytes(cut)
    for name, reason in (
        ("garbage.jpg", "no image in one of the formats"),
        ("large.jpg", "files of up to 0.005 MB"),
        ("many.png", "100 x 100 pixels are more than"),
        ("cut.png", "cannot be decoded"),
        ("gone.png", "no such file"),
        ("a.tif", "its format is TIFF; the page takes JPEG, MPO, PNG, WEBP"),
    ):
        with pytest.raises(ImageError, match=reason):
            page_predictor(tmp_path / name)
    headless = classifier(build_beit(tiny_config("unused", "unused", MODEL__NUM_CLASSES=0)))
    with pytest.raises(ValueError, match="no classes"):
        PagePredictor(headless)


@pytest.mark.parametrize("name", ["AVIF", "WEBP", "GIF"])
def test_formats_that_browsers_send_are_read(predictor, tmp_path, name):
    if name not in FORMATS:
        pytest.skip(f"this Pillow does not decode {name}")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "image", name)
    assert len(PagePredictor(predictor)(tmp_path / "image").scores) == 3
    assert name in SHOWN_FORMATS


def test_one_thread_at_a_time_calls_the_model(predictor, image_file):
    page_predictor = PagePredictor(predictor)
    inside, most = [], []
    lock = threading.Lock()

    class Counting(type(predictor)):
        def __call__(self, *arguments):
            with lock:
                inside.append(1)
                most.append(len(inside))
            result = super().__call__(*arguments)
            with lock:
                inside.pop()
            return result

    page_predictor.predictor = Counting(predictor.model, predictor.preprocessing, predictor.class_names)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(page_predictor, [image_file] * 12))
    assert max(most) == 1 and len({tuple(result.scores.items()) for result in results}) == 1
