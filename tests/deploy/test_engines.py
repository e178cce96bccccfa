"""The commands and predictors with OpenVINO and onnxruntime themselves."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from beit.beit import build_beit
from beit.checkpoint.files import write
from beit.deploy.compiled import CompiledModel
from beit.deploy.engines import preferred
from beit.predict.inference import load_predictor
from beit.tools.predict import main as predict
from beit.train.run import run
from tests.tiny import noise_images, randomize, tiny_beit, tiny_config, upernet_config, write_dataset

SIZE = (12, 12)  # of `tiny_beit()`


def images(batch=2):
    return paddle.to_tensor(noise_images(size=SIZE, batch=batch))


@pytest.mark.onnx
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_predictors_give_the_same_results(name, photographs, segmenter, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    model = randomize(build_beit(tiny_config()), scale=0.2)
    opened = [load_predictor(model).open(path) for path in photographs]
    expected, found = load_predictor(model), load_predictor(model, engine=name)
    for a, b in zip(expected(opened), found(opened), strict=True):
        np.testing.assert_allclose(b["pred_scores"], a["pred_scores"], atol=1e-5)
    np.testing.assert_allclose(found.features(opened), expected.features(opened), atol=1e-4)
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith(f"engine: {name} ") for line in lines) == 2
    assert len(list((tmp_path / "graphs").glob("*.onnx"))) == 2
    config, folder = upernet_config(DATA__RESIZE_LIMITS=[48, 32]), segmenter[1]
    file = folder / "best.pdparams"
    images = [segmenter[0].open(path) for path in sorted(folder.glob("*.png"))]
    a, b = (load_predictor(file, config=config, engine=engine)(images) for engine in ("paddle", name))
    for own, other in zip(a, b, strict=True):
        assert (own["pred_sem_seg"] == other["pred_sem_seg"]).mean() > 0.999


@pytest.mark.onnx
def test_engines_run_a_model_at_another_image_size(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "home"))
    state = randomize(build_beit(tiny_config()), scale=0.2).state_dict()
    write(tmp_path / "w.pdparams", {name: tensor.numpy() for name, tensor in state.items()})
    options = {"config": tiny_config(), "image_size": (32, 24)}
    expected, found = (
        load_predictor(tmp_path / "w.pdparams", engine=engine, **options) for engine in ("paddle", "openvino")
    )
    assert found.image_size == (32, 24)
    pictures = [expected.open(path) for path in photographs]
    for own, other in zip(expected(pictures), found(pictures), strict=True):
        np.testing.assert_allclose(other["pred_scores"], own["pred_scores"], atol=1e-5)
    assert "engine: openvino " in capsys.readouterr().err


@pytest.mark.onnx
def test_the_model_keeps_its_results_with_mapped_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    CompiledModel(randomize(tiny_beit()), "logits", size=SIZE, engine="openvino")(images())
    model = randomize(tiny_beit())
    expected = model(images()).numpy()
    again = CompiledModel(model, "logits", size=SIZE, engine="openvino")
    (file,) = (tmp_path / "graphs").glob("*.json")
    places = json.loads(file.read_text())["places of the weights"]
    assert places.keys() == dict(model.named_parameters()).keys()
    np.testing.assert_array_equal(model(images()).numpy(), expected)
    np.testing.assert_allclose(again(images()).numpy(), expected, atol=1e-5)


@pytest.mark.onnx
def test_8_bit_weights_of_openvino_are_those_rounded_to_127_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    model, rounded = randomize(tiny_beit(), scale=0.2), randomize(tiny_beit(), scale=0.2)
    for layer in rounded.sublayers():
        if isinstance(layer, paddle.nn.Linear):
            factor = layer.weight.abs().max(axis=0, keepdim=True) / 127
            layer.weight.set_value((layer.weight / factor).round() * factor)
    found = CompiledModel(model, "logits", size=SIZE, engine="openvino", precision="int8")(images())
    own, expected = (each(images()).numpy() for each in (model, rounded))
    # Processors with 8-bit products round the activations as well.
    assert np.abs(found.numpy() - expected).max() < 0.5 * np.abs(own - expected).max() + 1e-4
    assert "in int8, differs from the model by" in capsys.readouterr().err


@pytest.mark.onnx
def test_an_evaluation_in_int8_states_the_change(tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "home"))
    data = write_dataset(tmp_path / "data")
    run(tiny_config(data, tmp_path / "run", TRAIN__NUM_EPOCHS=1))
    keys = {"EVAL": True, "MODEL__PRETRAINED": str(tmp_path / "run" / "model.pdparams")}
    exact = run(tiny_config(data, tmp_path / "exact", ENGINE="paddle", **keys))
    for engine in ("openvino", "onnxruntime"):
        found = run(tiny_config(data, tmp_path / engine, ENGINE=engine, PRECISION="int8", **keys))
        report = json.loads((tmp_path / engine / "eval.json").read_text())
        assert report["precision"] == "int8" and report["engine"].endswith(" in int8")
        assert report["loss"] == found["loss"] != exact["loss"]
        assert report["float32"]["loss"] == pytest.approx(exact["loss"], rel=1e-5)
        assert report["float32"]["top1"] == exact["top1"]
        (line,) = [
            line
            for line in (tmp_path / engine / "log.txt").read_text().splitlines()
            if "change from float32" in line
        ]
        change = float(line.split("loss ")[1].split()[0])
        assert change == pytest.approx(found["loss"] - exact["loss"], abs=1e-4)


@pytest.mark.onnx
def test_commands_take_an_engine(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "home"))
    data = write_dataset(tmp_path / "data")
    run(tiny_config(data, tmp_path / "run", TRAIN__NUM_EPOCHS=1))
    results, chosen = {}, preferred("float32")[0]
    for engine in ("paddle", "openvino", "onnxruntime", "auto"):
        keys = {"EVAL": True, "MODEL__PRETRAINED": str(tmp_path / "run" / "model.pdparams"), "ENGINE": engine}
        results[engine] = run(tiny_config(data, tmp_path / engine, **keys))
        report = json.loads((tmp_path / engine / "eval.json").read_text())
        assert report["engine"].split()[0] == (chosen if engine == "auto" else engine)
        assert results[engine]["loss"] == pytest.approx(results["paddle"]["loss"], rel=1e-5)
        assert results[engine]["top1"] == results["paddle"]["top1"]
    assert f"engine: {chosen}" in (tmp_path / "auto" / "log.txt").read_text()
    capsys.readouterr()
    arguments = [str(tmp_path / "run"), str(photographs[0]), "--device", "cpu", "--json"]
    tables = {}
    for engine in ("paddle", "auto"):
        assert predict([*arguments, "--engine", engine]) == 0
        tables[engine] = json.loads(capsys.readouterr().out)[0]["topk"]
    for a, b in zip(tables["paddle"], tables["auto"], strict=True):
        assert a["class"] == b["class"] and a["score"] == pytest.approx(b["score"], abs=1e-5)


@pytest.mark.onnx
@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_engines_take_other_image_sizes(name, photographs, tmp_path, monkeypatch):
    """`--image-size` of `predict` and `-image_size` of `evaluate`; the run has 16 x 16."""
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "home"))
    data = write_dataset(tmp_path / "data")
    run(tiny_config(data, tmp_path / "run", TRAIN__NUM_EPOCHS=1))
    for size in (32, (24, 40)):
        keys = {"EVAL": True, "MODEL__PRETRAINED": str(tmp_path / "run" / "model.pdparams")}
        losses, scores = [], []
        for engine in ("paddle", name):
            given = keys | {"ENGINE": engine, "DATA__IMAGE_SIZE": size}
            losses.append(run(tiny_config(data, tmp_path / "eval", **given))["loss"])
            model = load_predictor(tmp_path / "run", image_size=size, engine=engine)
            assert model.image_size == ((32, 32) if size == 32 else size)
            scores.append(model([model.open(photographs[0])])[0]["pred_scores"])
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        np.testing.assert_allclose(*scores, atol=1e-5)
