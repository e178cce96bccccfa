"""Exported folders predict what the model predicts, by `load_predictor`, `beit predict` and the page."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.deploy.export import export
from beit.predict.classifier import classifier
from beit.predict.page import PagePredictor
from beit.predict.segmentation import segmenter
from beit.tools import predict
from tests.tiny import randomize, tiny_config, upernet_config

NAMES = ("花", "temple", "neither")


@pytest.fixture(scope="module")
def model():
    paddle.seed(3)
    network = beit.build_beit(tiny_config(DATA__CROP_PCT=0.8))
    network.head.weight.set_value(paddle.randn(network.head.weight.shape))
    network.eval()
    return classifier(network, class_names=NAMES)


@pytest.mark.parametrize("output", ["logits", "probabilities", "topk"])
def test_results_equal_those_of_the_model(model, photographs, tmp_path, output):
    export(model, tmp_path / "exported", photographs, output=output, topk=2)
    exported = beit.load_predictor(tmp_path / "exported")
    assert (exported.num_classes, exported.image_size, exported.class_names) == (3, (16, 16), NAMES)
    for path in photographs:
        found, expected = (beit.inference_model(each, path, topk=2) for each in (exported, model))
        assert (found["pred_class"], found["image"]) == (expected["pred_class"], str(path))
        assert [row["label"] for row in found["topk"]] == [row["label"] for row in expected["topk"]]
        scores = [[row["score"] for row in result["topk"]] for result in (found, expected)]
        np.testing.assert_allclose(*scores, atol=1e-6)
        assert ("pred_scores" in found) == (output != "topk")
    with pytest.raises(ValueError, match="topk=0"):
        exported([exported.open(photographs[0])], 0)


@pytest.mark.parametrize("output", ["logits", "probabilities", "topk"])
def test_images_with_several_labels(model, photographs, tmp_path, output):
    """Scores are sigmoids, and `labels` has the classes from the threshold on."""
    several = replace(model, threshold=0.5)
    export(several, tmp_path / "exported", photographs, output=output, topk=3)
    exported = beit.load_predictor(tmp_path / "exported")
    assert exported.threshold == 0.5
    images = [model.open(path) for path in photographs]
    sigmoids = 1 / (1 + np.exp(-model.model(model.tensor(images)).numpy()))
    counts = set()
    for predictor in (several, exported):
        for threshold in (0.5, 0.3, 1.0):
            for result, row in zip(predictor.with_threshold(threshold)(images, 1), sigmoids, strict=True):
                expected = np.sort(row[row >= threshold])[::-1]
                np.testing.assert_allclose(
                    [label["score"] for label in result["labels"]], expected, atol=1e-6
                )
                assert all(label["class"] == NAMES[label["label"]] for label in result["labels"])
                assert len(result["topk"]) == 1 and result["pred_score"] == pytest.approx(row.max(), abs=1e-6)
                counts.add(len(expected))
    assert counts >= {0, 1, 2}
    with pytest.raises(ValueError, match="threshold=2"):
        exported.with_threshold(2)


def test_a_threshold_needs_several_labels(model):
    with pytest.raises(ValueError, match="a threshold is for models of TASK: multilabel"):
        model.with_threshold(0.3)


def test_the_page_shows_the_input_of_the_model(model, photographs, tmp_path):
    export(model, tmp_path / "exported", photographs, output="topk")
    page = PagePredictor(beit.load_predictor(tmp_path / "exported"))
    result, expected = page(photographs[0]), PagePredictor(model)(photographs[0])
    assert list(result.scores) == list(expected.scores) and "no attention maps" in result.caption
    view = model.view(model.open(photographs[0])).resize(result.image.size, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(result.image, view)


def test_beit_predict_takes_an_export(model, photographs, tmp_path, capsys):
    export(model, tmp_path / "exported", photographs)
    assert predict.main([str(tmp_path / "exported"), str(photographs[0]), "--json", "-device=cpu"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["pred_class"] == beit.inference_model(model, photographs[0])["pred_class"]


def test_what_an_export_cannot_do_is_said(model, photographs, tmp_path):
    export(model, tmp_path / "exported", photographs, output="features")
    with pytest.raises(
        ValueError, match="the output features and has no classes; export it with --output topk"
    ):
        beit.load_predictor(tmp_path / "exported")
    export(model, tmp_path / "exported", photographs)
    with pytest.raises(ValueError, match="is an export, which has a fixed config"):
        beit.load_predictor(tmp_path / "exported", class_names="imagenet-1k")
    with pytest.raises(ValueError, match="features need the weights of a classifier or an encoder"):
        beit.extract_feat(tmp_path / "exported", photographs[0])


@pytest.mark.parametrize("output", ["logits", "class_map"])
def test_class_maps_have_the_size_of_the_image(photographs, tmp_path, output):
    config = upernet_config(TEST__MODE="whole", DATA__RESIZE_LIMITS=[16, 16])
    network = randomize(beit.build_upernet(config))
    network.eval()
    model = segmenter(network, config, tmp_path)
    export(model, tmp_path / "exported", photographs, output=output)
    exported = beit.load_predictor(tmp_path / "exported")
    image = exported.open(photographs[0]).resize((16, 16))  # neither model nor graph resizes it
    (found,), (expected,) = exported([image]), model([image])
    assert np.mean(found["pred_sem_seg"] == expected["pred_sem_seg"]) > 0.98
    large = exported.open(photographs[0])
    result = exported([large])[0]
    assert result["pred_sem_seg"].shape == (large.height, large.width)
    assert exported.draw(large, result).keys() == {"overlay", "classes"}
