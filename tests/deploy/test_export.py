"""Exports of classifiers: what the files compute, what is refused, and what is left behind."""

from __future__ import annotations

import json
import shlex

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.__main__ import main
from beit.beit import build_beit
from beit.deploy import parity
from beit.deploy.description import read_description
from beit.deploy.runner import load_runner
from beit.predict.classifier import classifier
from beit.tools import export as module
from beit.tools.export import export
from tests.tiny import logits_of, tiny_config

NAMES = ("flower", "temple", "neither")


@pytest.fixture(scope="module")
def model():
    config = tiny_config("unused", "unused", DATA__CROP_PCT=0.8, DATA__IMAGENET_MEAN=[0.5, 0.4, 0.3])
    paddle.seed(3)
    beit = build_beit(config)
    beit.head.weight.set_value(paddle.randn(beit.head.weight.shape))
    beit.eval()
    return classifier(beit, class_names=NAMES)


@pytest.mark.parametrize("normalized", [False, True])
def test_logits(model, photographs, tmp_path, normalized):
    description = export(model, tmp_path / "out", photographs, normalized=normalized)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "model.json",
        "model.pdiparams",
        "export.json",
    }
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert description.measured["paddle"] < 1e-6 and description.measured["batches"] == [1, 2, 4]
    runner = load_runner(tmp_path / "out", threads=1)
    images = np.stack([runner.description.open(path) for path in photographs])
    expected = logits_of(model, photographs)
    assert np.ptp(expected) > 0.1
    for batch in (1, 3, 4):
        np.testing.assert_allclose(runner(images[:batch])["logits"], expected[:batch], atol=1e-5)
    many = np.arange(19) % 4  # more than the engine takes at once
    np.testing.assert_allclose(runner(images[many])["logits"], expected[many], atol=1e-5)


def test_the_best_classes_and_what_is_told_of_them(model, photographs, tmp_path):
    export(model, tmp_path / "out", photographs, output="topk", topk=2)
    runner = load_runner(tmp_path / "out", threads=1)
    images = np.stack([runner.description.open(path) for path in photographs])
    found = runner(images)
    results = model([Image.open(path) for path in photographs], topk=2)
    assert found["classes"].tolist() == [[row["label"] for row in result["topk"]] for result in results]
    np.testing.assert_allclose(
        found["scores"], [[row["score"] for row in result["topk"]] for result in results], atol=1e-6
    )
    assert read_description(tmp_path / "out") == runner.description
    assert runner.description.class_names == NAMES
    assert runner.description.preprocessing.mean == (0.5, 0.4, 0.3)
    assert runner.description.preprocessing.crop_pct == 0.8


def test_features_and_probabilities(model, photographs, tmp_path):
    images = [Image.open(path) for path in photographs]
    for output, expected in (
        ("features", model.features(images)),
        ("probabilities", np.stack([result["pred_scores"] for result in model(images)])),
    ):
        export(model, tmp_path / output, photographs, output=output)
        runner = load_runner(tmp_path / output, threads=1)
        pixels = np.stack([runner.description.open(path) for path in photographs])
        np.testing.assert_allclose(runner(pixels)[output], expected, atol=1e-5)


def test_a_graph_that_differs_is_not_left(model, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "largest_difference", lambda *_: 0.5)
    with pytest.raises(ValueError, match=r"on paddle .* differs from the model by 0.5"):
        export(model, tmp_path / "out", photographs)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_gives_nan_is_not_left(photographs, tmp_path):
    beit = build_beit(tiny_config("unused", "unused"))
    beit.head.bias.set_value(paddle.full([3], float("nan")))
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        export(classifier(beit), tmp_path / "out", photographs)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(model, photographs, tmp_path):
    with pytest.raises(ValueError, match="choose one of logits, probabilities, topk, features"):
        export(model, tmp_path / "out", photographs, output="class_map")
    with pytest.raises(ValueError, match="topk=0"):
        export(model, tmp_path / "out", photographs, output="topk", topk=0)
    headless = classifier(build_beit(tiny_config("unused", "unused", MODEL__NUM_CLASSES=0)))
    with pytest.raises(ValueError, match="no head"):
        export(headless, tmp_path / "out", photographs)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no export"):
        export(model, tmp_path / "mine", photographs)
    with pytest.raises(ValueError, match="no pictures"):
        export(model, tmp_path / "out", [])
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_the_command(example_folder, capsys):
    """The first example of the help text, twice: an export replaces a previous one."""
    words = shlex.split(module.EXAMPLES[0])[3:]
    for _ in range(2):
        assert main(words) == 0
    said = capsys.readouterr().out
    assert "paddle: largest difference" in said and "bfloat16: " in said
    content = json.loads((example_folder / "exported" / "export.json").read_text())
    assert content["outputs"] == ["scores", "classes"] and content["class_names"][3] == "digit 3"
    assert main([*words[:3], "--pictures", "none"]) == 2
    assert "none does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert all(line in capsys.readouterr().out for line in module.EXAMPLES[:1])


def test_differences_of_classes_forgive_ties():
    logits = np.array([[1.0, 1.0, 0.0], [3.0, 0.0, 0.0]], np.float32)
    scores = np.sort(parity._softmax(logits), axis=1)[:, :0:-1]
    tie = {"scores": scores, "classes": np.array([[1, 0], [0, 2]])}
    assert parity._topk(tie, logits) < 1e-7
    wrong = {"scores": scores, "classes": np.array([[1, 0], [1, 2]])}
    assert parity._topk(wrong, logits) > 0.5
    maps = logits.T[None, :, :, None]  # [1, 3, 2, 1]
    assert parity._class_map({"class_map": np.array([[[1], [0]]])}, maps) == 0
    assert parity._class_map({"class_map": np.array([[[2], [0]]])}, maps) == pytest.approx(1 / 3)
