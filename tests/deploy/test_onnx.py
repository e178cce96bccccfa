"""ONNX files give the results of the model on each engine. Marked `onnx`: the test extra does not install the engines."""

from __future__ import annotations

import builtins
import shlex

import numpy as np
import paddle
import pytest

from beit.__main__ import main
from beit.beit import build_beit
from beit.deploy.engines import preferred
from beit.deploy.export import export
from beit.deploy.graph import write_onnx
from beit.deploy.network import ExportedNetwork
from beit.deploy.runner import load_runner
from beit.predict.classifier import classifier
from beit.predict.inference import load_predictor
from beit.tools.export import EXAMPLES
from tests.tiny import logits_of, tiny_config

POSITIONS = {
    "own tables": {},
    "shared table": {"MODEL__USE_REL_POS_BIAS": False, "MODEL__USE_SHARED_REL_POS_BIAS": True},
    "absolute, class token": {
        "MODEL__USE_REL_POS_BIAS": False,
        "MODEL__USE_ABS_POS_EMB": True,
        "MODEL__USE_MEAN_POOLING": False,
    },
}


ONNX_ENGINES = ("openvino", "onnxruntime")


def random_classifier(**keys):
    paddle.seed(3)
    beit = build_beit(tiny_config("unused", "unused", **keys))
    for parameter in beit.parameters():
        parameter.set_value(parameter + paddle.randn(parameter.shape) * 0.1)
    beit.eval()
    return classifier(beit)


@pytest.mark.onnx
@pytest.mark.parametrize("positions", POSITIONS)
def test_logits_for_any_batch_size(positions, photographs, tmp_path):
    model = random_classifier(**POSITIONS[positions])
    description = export(model, tmp_path / "out", photographs, onnx=True)
    expected = logits_of(model, photographs)
    for engine in ONNX_ENGINES:
        assert description.measured[engine] < 1e-5
        runner = load_runner(tmp_path / "out", engine, threads=1)
        images = np.stack([runner.description.open(path) for path in photographs])
        for batch in (1, 3):
            np.testing.assert_allclose(runner(images[:batch])["logits"], expected[:batch], atol=1e-4)


@pytest.mark.onnx
def test_a_position_bias_is_one_gather(tmp_path):
    """Engines hold the result of every step of a bias, which is larger than the weights in large models."""
    import onnx

    model = random_classifier(DATA__IMAGE_SIZE=64).model
    heads, tokens = model.blocks[0].attn.num_heads, 64 + 1
    file = write_onnx(ExportedNetwork(model, "logits", size=(64, 64)), tmp_path / "g", ("logits",))
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(file))).graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    constant = {tensor.name for tensor in graph.initializer}
    computed = [
        node for node in graph.node if constant.issuperset(node.input) and not constant.update(node.output)
    ]
    large = [shapes[node.output[0]] for node in computed if np.prod(shapes[node.output[0]]) > tokens**2]
    assert large == [[1, heads, tokens, tokens]] * model.depth
    used = {name for node in graph.node for name in node.input} | {"logits"}
    assert all(used & set(node.output) for node in graph.node)


@pytest.mark.onnx
def test_best_classes_in_float32_and_int8(photographs, tmp_path):
    model = random_classifier(MODEL__EMBED_DIM=48)
    description = export(model, tmp_path / "out", photographs, output="topk", topk=2, int8=True)
    assert 0 < description.measured["int8"]["largest"] < 0.2
    files = {file.name: file.stat().st_size for file in (tmp_path / "out").iterdir()}
    assert files["model.int8.onnx"] < 0.7 * files["model.onnx"]
    runner = load_runner(tmp_path / "out", "onnxruntime", precision="int8", threads=1)
    assert runner(np.zeros((2, 3, 16, 16), np.uint8))["classes"].shape == (2, 2)
    with pytest.raises(ValueError, match="there are float32 and int8"):
        load_runner(tmp_path / "out", "onnxruntime", precision="bfloat16")
    runner = load_runner(tmp_path / "out", "openvino", precision="int8", threads=1)
    assert runner(np.zeros((2, 3, 16, 16), np.uint8))["scores"].shape == (2, 2)
    assert runner.name.endswith(" in int8")


@pytest.mark.onnx
def test_predictors_of_exports_take_an_engine(photographs, tmp_path, capsys):
    model = random_classifier()
    export(model, tmp_path / "out", photographs, onnx=True)
    images = [model.open(path) for path in photographs]
    expected = model(images)
    for engine, name in (
        ("paddle", "paddle"),
        ("onnxruntime", "onnxruntime"),
        ("auto", preferred("float32")[0]),
    ):
        capsys.readouterr()
        found = load_predictor(tmp_path / "out", engine=engine)(images)
        assert capsys.readouterr().err.startswith(f"engine: {name} ")
        for own, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other["pred_scores"], own["pred_scores"], atol=1e-5)
    lower = load_predictor(tmp_path / "out", engine="auto", precision="int8")(images)
    for own, other in zip(expected, lower, strict=True):
        assert 0 < np.abs(other["pred_scores"] - own["pred_scores"]).max() < 0.05


@pytest.mark.onnx
def test_the_example_of_the_help_text(example_folder):
    assert main(shlex.split(EXAMPLES[1])[3:]) == 0
    assert (example_folder / "exported" / "model.int8.onnx").is_file()


@pytest.mark.onnx
def test_class_map_of_a_segmentation_model(segmenter, tmp_path):
    model, folder = segmenter
    description = export(model, tmp_path / "out", sorted(folder.glob("*.png")), output="class_map", onnx=True)
    assert all(description.measured[engine] < 1e-4 for engine in ONNX_ENGINES)


def test_message_if_onnx_is_not_installed(photographs, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name in ("onnx", "onnxruntime"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r'pip install "beit-paddle\[onnx\]"'):
        export(random_classifier(), tmp_path / "out", photographs, onnx=True)
    assert list(tmp_path.iterdir()) == []
