"""Exports of classifiers: their results, refused arguments, and no files after a failure."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.__main__ import main
from beit.beit import build_beit
from beit.deploy import export as module
from beit.deploy import parity
from beit.deploy.description import read_description, write_description
from beit.deploy.export import export
from beit.deploy.graph import write_graph
from beit.deploy.network import ExportedNetwork, tracing
from beit.deploy.runner import load_runner
from beit.files import sha256_of
from beit.models.mim import build_mim
from beit.predict.classifier import classifier
from beit.predict.inference import load_predictor
from beit.tools.export import EXAMPLES
from tests.tiny import TINIEST_PRETRAIN, logits_of, tiny_config

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
def test_logits_equal_those_of_the_model(model, photographs, tmp_path, normalized):
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
    for number, path in enumerate(photographs):
        for given in (path.read_bytes(), np.asarray(Image.open(path))):
            np.testing.assert_array_equal(runner.description.open(given), images[number])
    expected = logits_of(model, photographs)
    assert np.ptp(expected) > 0.1
    for batch in (1, 3, 4):
        np.testing.assert_allclose(runner(images[:batch])["logits"], expected[:batch], atol=1e-5)
    many = np.arange(19) % 4  # more than the engine takes at once
    np.testing.assert_allclose(runner(images[many])["logits"], expected[many], atol=1e-5)


def test_a_traced_model_keeps_its_methods(tmp_path):
    """Paddle 3.0 stores another `forward` in each layer, as the lambda here."""
    network = build_beit(tiny_config())
    network.eval()
    images = paddle.rand([2, 3, 16, 16])
    expected = network(images, any_size=True).numpy()
    exported = ExportedNetwork(network, "logits", size=(16, 16))
    write_graph(exported, tmp_path / "model")
    with tracing(exported):
        network.forward = lambda images, *, any_size: None
    assert [name for name, layer in exported.named_sublayers() if "forward" in vars(layer)] == []
    np.testing.assert_array_equal(network(images, any_size=True).numpy(), expected)


def test_best_classes_and_description(model, photographs, tmp_path):
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
    assert set(runner.description.files) == {"model.json", "model.pdiparams"}
    weights = tmp_path / "out" / "model.pdiparams"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="has changed since the export"):
        load_runner(tmp_path / "out")
    assert runner.description.class_names == NAMES
    assert runner.description.preprocessing.mean == (0.5, 0.4, 0.3)
    assert runner.description.preprocessing.crop_pct == 0.8


def test_features_and_probabilities_equal_those_of_the_model(model, photographs, tmp_path):
    images = [Image.open(path) for path in photographs]
    for output, expected in (
        ("features", model.features(images)),
        ("probabilities", np.stack([result["pred_scores"] for result in model(images)])),
    ):
        export(model, tmp_path / output, photographs, output=output)
        runner = load_runner(tmp_path / output, threads=1)
        pixels = np.stack([runner.description.open(path) for path in photographs])
        np.testing.assert_allclose(runner(pixels)[output], expected, atol=1e-5)


def test_a_graph_that_differs_is_removed(model, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "largest_difference", lambda *_: 0.5)
    with pytest.raises(ValueError, match=r"on paddle .* differs from the model by 0.5"):
        export(model, tmp_path / "out", photographs)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_returns_nan_is_removed(photographs, tmp_path):
    beit = build_beit(tiny_config("unused", "unused"))
    beit.head.bias.set_value(paddle.full([3], float("nan")))
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        export(classifier(beit), tmp_path / "out", photographs)
    assert list(tmp_path.iterdir()) == []


def test_refused_arguments(model, photographs, tmp_path):
    with pytest.raises(ValueError, match="choose one of logits, probabilities, topk, features"):
        export(model, tmp_path / "out", photographs, output="class_map")
    with pytest.raises(ValueError, match="topk=0"):
        export(model, tmp_path / "out", photographs, output="topk", topk=0)
    headless = classifier(build_beit(tiny_config("unused", "unused", MODEL__NUM_CLASSES=0)))
    with pytest.raises(ValueError, match="no head"):
        export(headless, tmp_path / "out", photographs)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not an export"):
        export(model, tmp_path / "mine", photographs)
    with pytest.raises(ValueError, match="no images"):
        export(model, tmp_path / "out", [])
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_export_verb_replaces_an_earlier_export(example_folder, capsys):
    """The first example of the help text, run twice."""
    words = shlex.split(EXAMPLES[0])[3:]
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
    assert all(line in capsys.readouterr().out for line in EXAMPLES[:1])


@pytest.mark.parametrize("lists_its_files", [True, False])
def test_a_second_export_keeps_the_files_of_others(lists_its_files, model, photographs, tmp_path):
    folder = tmp_path / "out"
    export(model, folder, photographs)
    if not lists_its_files:
        write_description(folder, replace(read_description(folder), files={}))
    (folder / "model.onnx").write_text("of the earlier export")
    (folder / "card.md").write_text("mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("mine")
    if lists_its_files:
        files = read_description(folder).files | {"model.onnx": "0"}
        write_description(folder, replace(read_description(folder), files=files))
    export(model, folder, photographs, normalized=True)
    assert read_description(folder).normalized
    assert (folder / "card.md").read_text() == (folder / "notes" / "thesis.txt").read_text() == "mine"
    assert not (folder / "model.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_of_others_with_the_names_of_new_ones_are_refused(model, photographs, tmp_path):
    folder = tmp_path / "out"
    export(model, folder, photographs)
    description = read_description(folder)
    weights = description.files.pop("model.pdiparams")  # as if another program had written the file
    write_description(folder, description)
    with pytest.raises(ValueError, match=r"out has model\.pdiparams, which no export wrote there; move it"):
        export(model, folder, photographs, normalized=True)
    assert not read_description(folder).normalized and sha256_of(folder / "model.pdiparams") == weights
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("flag", ["--normalized", "--normalised"])
def test_both_spellings_of_the_flag_for_normalized_images(flag, example_folder):
    assert main(["export", "output/run", "exported", "--pictures", "photo.jpg", flag]) == 0
    assert read_description("exported").normalized


def test_models_of_masked_images_are_refused(photographs, tmp_path):
    config = tiny_config(**TINIEST_PRETRAIN | {"MASK__RULE": "random"})
    paddle.save(build_mim(config).state_dict(), str(tmp_path / "mim.pdparams"))
    predictor = load_predictor(tmp_path / "mim.pdparams", config=config)
    with pytest.raises(ValueError, match="a model of TASK: pretrain cannot be exported; export its encoder"):
        export(predictor, tmp_path / "out", photographs)


def test_differences_of_classes_ignore_ties():
    logits = np.array([[1.0, 1.0, 0.0], [3.0, 0.0, 0.0]], np.float32)
    probabilities = np.array([[0.4, 0.4, 0.2], [0.8, 0.1, 0.1]], np.float32)
    scores = np.sort(probabilities, axis=1)[:, :0:-1]
    tie = {"scores": scores, "classes": np.array([[1, 0], [0, 2]])}
    assert parity._topk(tie, probabilities) < 1e-7
    wrong = {"scores": scores, "classes": np.array([[1, 0], [1, 2]])}
    assert parity._topk(wrong, probabilities) > 0.5
    maps = logits.T[None, :, :, None]  # [1, 3, 2, 1]
    for name in ("class_map", "codes"):
        assert parity._COMPARE[name]({name: np.array([[[1], [0]]])}, maps) == 0
        assert parity._COMPARE[name]({name: np.array([[[2], [0]]])}, maps) == pytest.approx(1 / 3)
