"""Shape bias on images named after shape and texture, with a classifier whose probabilities are known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import beit
from beit.imagenet_classes import class_names
from beit.predict.classifier import Classifier
from beit.predict.shape_bias import CATEGORIES, ShapeBias, draw_shape_bias, write_shape_bias
from tests.tiny import tiny_beit

NAMES = class_names("imagenet-1k")


def test_the_classes_of_the_categories_are_what_they_are_called():
    """Sizes of the published lists, 207 classes, and lemmas of the first class of some."""
    sizes = {name: len(labels) for name, labels in CATEGORIES.items()}
    assert sizes == {
        "airplane": 1, "bear": 4, "bicycle": 2, "bird": 49, "boat": 5, "bottle": 7, "car": 3, "cat": 6, "chair": 4,
        "clock": 3, "dog": 109, "elephant": 2, "keyboard": 2, "knife": 1, "oven": 1, "truck": 8,
    }  # fmt: skip
    labels = [label for group in CATEGORIES.values() for label in group]
    assert len(set(labels)) == len(labels)
    words = {"airplane": "airliner", "bear": "brown bear", "cat": "tabby", "knife": "cleaver", "oven": "rotisserie", "truck": "fire engine"}  # fmt: skip
    assert all(word in NAMES[CATEGORIES[name][0]] for name, word in words.items())


@pytest.fixture
def predictor(monkeypatch, tmp_path):
    """A classifier of ImageNet that finds the category in the red channel of an image, and sees it in all its classes."""
    monkeypatch.chdir(tmp_path)
    model = tiny_beit(classes=1000)
    found = beit.load_predictor(
        model,
        class_names="imagenet-1k",
        preprocessing=beit.Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0),
    )

    def call(self, images, topk=5):
        results = []
        for image in images:
            scores = np.full(1000, 1e-4, np.float32)
            scores[list(CATEGORIES.values())[image.getpixel((0, 0))[0] // 16]] = 0.01
            scores[[154, 155]] += 0.03  # more than any other class, but few of the dogs
            results.append({"pred_scores": scores})
        return results

    monkeypatch.setattr(Classifier, "__call__", call)
    return found


def draw(name, category):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 12), (16 * list(CATEGORIES).index(category) + 8, 0, 0)).save(name)


def test_decisions_are_counted_by_the_category_of_the_shape(predictor):
    draw("cue/cat/cat1-elephant3.png", "cat")
    draw("cue/cat/cat2-elephant1.png", "elephant")
    draw("cue/cat/cat2-oven2.png", "cat")
    draw("cue/cat/cat4-truck2.png", "bear")
    draw("cue/cat/cat1-cat2.png", "cat")  # no conflict
    draw("cue/knife/knife3-dog1.png", "dog")
    found = beit.shape_bias(predictor, "cue")
    expected = np.zeros((16, 3), int)
    expected[list(CATEGORIES).index("cat")] = [2, 1, 1]
    expected[list(CATEGORIES).index("knife")] = [0, 1, 0]
    np.testing.assert_array_equal(found.decisions, expected)
    assert found.percent == 50.0
    rows = {row["shape_category"]: row for row in csv.DictReader(write_shape_bias(found, Path("new/s.csv")).read_text().splitlines())}  # fmt: skip
    assert list(rows["cat"].values()) == ["cat", "2", "1", "1", "66.67"]
    assert (
        list(rows["all"].values()) == ["all", "2", "2", "1", "50.00"] and rows["bear"]["shape_bias"] == "nan"
    )
    (axis,) = draw_shape_bias(found).axes
    assert [bar.get_width() for bar in axis.patches] == [pytest.approx(200 / 3), 0.0]
    assert "shape bias 50.0 %" in axis.get_title() and "2 shape, 2 texture, 1 neither" in axis.get_title()
    assert np.isnan(ShapeBias(np.zeros((16, 3), int)).percent)


def test_other_files_and_other_classes_are_refused(predictor):
    draw("other/photo.png", "cat")
    draw("wrong/cat1-tiger1.png", "cat")
    for folder in ("other", "wrong"):
        with pytest.raises(
            ValueError, match="is not named after shape and texture, such as cat1-elephant3.png"
        ):
            beit.shape_bias(predictor, folder)
    draw("same/cat1-cat2.png", "cat")
    with pytest.raises(ValueError, match="of the same category in all 1 images"):
        beit.shape_bias(predictor, "same")
    with pytest.raises(ValueError, match='pass class_names="imagenet-1k"'):
        beit.shape_bias(Classifier(predictor.model, predictor.preprocessing), "other")
