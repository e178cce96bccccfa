"""The image classification pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beit.transformers import BeitForImageClassification, BeitImageProcessor, pipeline
from tests.transformers.cases import CASES, TABLES, TINY, Case, write_folder

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, CASES["classes"])
    BeitImageProcessor(size=8, do_center_crop=False).save_pretrained(tmp_path)
    return tmp_path


def scores_by_hand(folder, function):
    model = BeitForImageClassification.from_pretrained(folder)
    pixels = BeitImageProcessor.from_pretrained(folder)(IMAGE, return_tensors="pt").pixel_values
    return function(model(pixels).logits.numpy()[0].astype(np.float64))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_best_classes_come_first(folder):
    classifier = pipeline("image-classification", model=folder, top_k=3)
    expected = scores_by_hand(folder, softmax)
    found = classifier(IMAGE)
    assert [row["label"] for row in found] == [f"LABEL_{k}" for k in np.argsort(-expected)[:3]]
    np.testing.assert_allclose([row["score"] for row in found], np.sort(expected)[::-1][:3], atol=1e-6)
    assert classifier(IMAGE, top_k=1) == found[:1]
    assert len(classifier(IMAGE, top_k=100)) == 5


def test_files_and_lists(folder, tmp_path):
    IMAGE.save(tmp_path / "photo.png")
    classifier = pipeline(model=folder)
    single = classifier(str(tmp_path / "photo.png"))
    assert classifier([IMAGE, tmp_path / "photo.png"]) == [single, single]


@pytest.mark.parametrize(
    ("config", "function"),
    [({"problem_type": "multi_label_classification"}, sigmoid), ({"problem_type": "regression"}, np.asarray)],
)
def test_the_function_goes_with_the_problem(config, function, tmp_path):
    write_folder(tmp_path, Case("BeitForImageClassification", TABLES | {"num_labels": 4} | config))
    BeitImageProcessor(size=8, do_center_crop=False).save_pretrained(tmp_path)
    expected = np.sort(scores_by_hand(tmp_path, function))[::-1]
    found = pipeline(model=tmp_path)(IMAGE)
    np.testing.assert_allclose([row["score"] for row in found], expected, atol=1e-5)
    softened = pipeline(model=tmp_path, function_to_apply="softmax")(IMAGE)
    assert sum(row["score"] for row in softened) == pytest.approx(1.0)


@pytest.mark.peers
def test_results_equal_those_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.pipeline(
        "image-classification",
        model=transformers.BeitForImageClassification.from_pretrained(folder),
        image_processor=transformers.BeitImageProcessorPil.from_pretrained(folder),
    )(IMAGE)
    found = pipeline("image-classification", model=folder)(IMAGE)
    assert [row["label"] for row in found] == [row["label"] for row in theirs]
    np.testing.assert_allclose([row["score"] for row in found], [row["score"] for row in theirs], atol=1e-5)


def test_wrong_arguments_are_refused(folder):
    model = BeitForImageClassification.from_pretrained(folder)
    for arguments, message in (
        ({"task": "translation", "model": folder}, "the only pipeline here is 'image-classification'"),
        ({}, "no model: pass a folder"),
        ({"model": model}, "pass image_processor="),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline(**arguments)
    classifier = pipeline(model=model, image_processor=folder)
    assert TINY["image_size"] == model.config.image_size
    with pytest.raises(ValueError, match="top_k = 0; expected 1 or more"):
        classifier(IMAGE, top_k=0)
    with pytest.raises(ValueError, match="function_to_apply = 'max'; known: softmax"):
        classifier(IMAGE, function_to_apply="max")
    with pytest.raises(ValueError, match="images are not downloaded here"):
        classifier("https://example.org/photo.jpg")


def test_the_processor_of_a_file_is_that_of_its_folder(folder):
    (file,) = folder.glob("*.safetensors")
    found, expected = (pipeline(model=str(place))(IMAGE) for place in (file, folder))
    assert found == expected
    (folder / "preprocessor_config.json").unlink()
    for place in (file, folder):
        with pytest.raises(
            FileNotFoundError, match=r"preprocessor_config\.json does not exist: pass image_processor="
        ):
            pipeline(model=place)
