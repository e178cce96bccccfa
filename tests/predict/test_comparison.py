"""Two classifiers on the same images: the order, the known classes, the figure and the table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import beit
from beit.__main__ import main
from beit.predict.classifier import classifier
from tests.tiny import randomize

FLOWERS = ("daisy", "rose", "tulip")


def build(seed, names=FLOWERS):
    """A classifier with random weights whose mean logits of `flowers` are zero, so that it predicts several classes."""
    model = randomize(
        beit.build_beit(beit.get_config("demo_digits", ["MODEL.NUM_CLASSES", 3])), seed, scale=0.2
    )
    features = beit.extract_feat(model, "flowers")
    model.head.bias.set_value(-(features @ model.head.weight.numpy()).mean(0))
    return classifier(model, class_names=names)


def test_the_progress_is_shown(example_folder, capsys):
    beit.compare(build(0), build(1), "flowers", batch_size=2)
    assert "predict: 4/4" in capsys.readouterr().err


@pytest.fixture
def found(example_folder):
    return beit.compare(build(0), build(1), ["flowers", "photo.jpg", "more"])


def test_different_predictions_come_first(found):
    assert (len(found.images), found.top1) == (10, None)
    assert 0 < found.different < 10
    assert [image.differs for image in found.images] == sorted(
        (image.differs for image in found.images), reverse=True
    )
    sure = [min(result["pred_score"] for result in image.results) for image in found.images]
    assert sure[: found.different] == sorted(sure[: found.different], reverse=True)
    for compared in found.images:
        for predictor, result in zip(found.predictors, compared.results, strict=True):
            alone = beit.inference_model(predictor, compared.image)
            assert result["pred_class"] == alone["pred_class"]
            np.testing.assert_allclose(result["pred_scores"], alone["pred_scores"], atol=1e-5)


def test_classes_are_the_same_where_their_names_are(example_folder):
    first = build(0)
    renamed = classifier(first.model, class_names=("rose", "daisy", "tulip"))
    results = beit.inference_model(first, "flowers")
    found = beit.compare(first, renamed, "flowers")
    assert found.different == sum(result["pred_class"] != "tulip" for result in results) > 0
    with pytest.raises(ValueError, match="one of the two models has no class names"):
        beit.compare(first, build(0, names=None), "flowers")
    assert beit.compare(build(0, names=None), build(0, names=None), "flowers").different == 0


def test_the_folders_are_the_true_classes(example_folder):
    first, second = build(0), build(1)
    found = beit.compare(first, second, "flowers", labeled=True)
    right = [
        [
            result["pred_class"] == Path(result["image"]).parent.name
            for result in beit.inference_model(each, "flowers")
        ]
        for each in (first, second)
    ]
    assert found.top1 == pytest.approx((100 * np.mean(right[0]), 100 * np.mean(right[1])))
    figure = beit.draw_comparison(found, count=3)
    assert "8 images" in figure.get_suptitle() and f"top-1 {found.top1[0]:.1f} and" in figure.get_suptitle()
    titles = [axis.title for axis in figure.axes if axis.get_title()]
    assert len(titles) == 9
    for compared, (image, one, two) in zip(found.images, zip(*[iter(titles)] * 3, strict=True), strict=False):
        assert image.get_text() == f"{Path(compared.image).name}\nis {compared.truth}"
        for letter, drawn, name in zip("AB", (one, two), compared.classes, strict=True):
            assert drawn.get_text().startswith(f"{letter}: {name}\n")
            assert (drawn.get_color() == "red") == (name != compared.truth)
    with pytest.raises(ValueError, match=r"photo\.jpg: its folder is not named after a class"):
        beit.compare(first, second, "photo.jpg", labeled=True)


def test_identifiers_of_wordnet_are_spelled_out(example_folder):
    Path("flowers/daisy").rename("flowers/n11939491")
    found = beit.compare(build(0), build(1), "flowers", labeled=True)
    assert sorted({image.truth for image in found.images}) == ["daisy", "rose"]


def test_the_figure_and_the_table_of_the_verb(example_folder, capsys):
    words = [
        "visualize",
        "comparison",
        "output/run",
        "output/run/model.pdparams",
        "pictures",
        "--output",
        "new/c.png",
    ]
    assert main(words) == 0
    assert capsys.readouterr().out.split() == ["new/c.png", "new/c.csv"]
    rows = list(csv.DictReader(Path("new/c.csv").read_text().splitlines()))
    results = {row["image"]: row for row in beit.inference_model("output/run", "pictures")}
    assert {row["image"] for row in rows} == set(results)
    for row in rows:
        result = results[row["image"]]
        assert (row["first_class"], row["true_class"]) == (result["pred_class"], "")
        assert float(row["second_score"]) == pytest.approx(result["pred_score"], abs=1e-5)
