"""Networks run by engines in place of Paddle: choice, comparison, cache, fallback."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import paddle
import pytest

from beit.deploy import compiled as module
from beit.deploy.cache import CachedGraph, _digest, _remove_old
from beit.deploy.compiled import CompiledModel
from beit.deploy.engines import ENGINES, preferred
from beit.predict.inference import load_predictor
from tests.tiny import noise_images, randomize, tiny_beit, tiny_config

SIZE = (12, 12)  # of `tiny_beit()`


class Doubled:
    """An engine that returns the logits times a factor, and counts the images that it gets."""

    package = "numpy"
    precisions = ("float32", "int8")
    factor = 1.0
    images = 0

    def __init__(self, target, precision, threads, task):
        assert threads >= 1

    def __call__(self, images):
        type(self).images += len(images)
        return [type(self).factor * MODEL(paddle.to_tensor(images)).numpy()]


MODEL = randomize(tiny_beit())


@pytest.fixture
def engine(monkeypatch, tmp_path):
    """`Doubled` as the only engine besides Paddle; graphs are not written, records are."""

    class Graph(CachedGraph):
        def __init__(self, model, output, size, log):
            self.target = tmp_path / "graph"

        def is_intact(self, suffixes=()):
            return True

        def add_int8(self):
            pass

        def map_weights(self, model):
            assert model is MODEL

    Doubled.factor, Doubled.images = 1.0, 0
    monkeypatch.setattr(module, "CachedGraph", Graph)
    monkeypatch.setitem(ENGINES, "onnxruntime", Doubled)
    monkeypatch.setattr("beit.deploy.engines.is_installed", lambda name: name == "onnxruntime")
    monkeypatch.setattr(module, "describe", lambda name, kind="float32": f"{name} 1.0 {kind}")
    return Doubled


def compile_tiny(engine="auto", precision="float32"):
    log = []
    model = CompiledModel(MODEL, "logits", size=SIZE, engine=engine, precision=precision, log=log.append)
    return model, log


def images(batch=2):
    return paddle.to_tensor(noise_images(size=SIZE, batch=batch))


@pytest.mark.parametrize(("vendor", "extra"), [("GenuineIntel", "openvino"), ("AuthenticAMD", "onnx")])
def test_without_an_engine_paddle_answers_and_the_log_says_why(monkeypatch, vendor, extra):
    """The line names the extra of the engine that would be the fastest on this processor."""
    monkeypatch.setattr("beit.deploy.engines.is_installed", lambda name: False)
    monkeypatch.setattr("beit.deploy.engines.cpu_vendor", lambda: vendor)
    model, log = compile_tiny()
    assert log == [
        f'engine: Paddle (neither OpenVINO nor onnxruntime is installed: pip install "beit-paddle[{extra}]")'
    ]
    np.testing.assert_array_equal(model(images()).numpy(), MODEL(images()).numpy())
    assert model.engine_name == f"paddle {paddle.__version__}" and model.depth == MODEL.depth


@pytest.mark.parametrize(
    ("vendor", "precision", "expected"),
    [
        ("GenuineIntel", "float32", ["openvino", "onnxruntime"]),
        ("AuthenticAMD", "float32", ["onnxruntime", "openvino"]),
        ("", "float32", ["onnxruntime", "openvino"]),
        ("GenuineIntel", "int8", ["onnxruntime", "openvino"]),
        ("AuthenticAMD", "bfloat16", ["openvino"]),
    ],
)
def test_auto_prefers_the_engine_that_is_fastest_on_the_processor(monkeypatch, vendor, precision, expected):
    monkeypatch.setattr("beit.deploy.engines.is_installed", lambda name: True)
    monkeypatch.setattr("beit.deploy.engines.cpu_vendor", lambda: vendor)
    assert preferred(precision) == expected


def test_unknown_and_missing_engines_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="unknown engine 'tensorrt'; there are auto, openvino"):
        compile_tiny("tensorrt")
    with pytest.raises(ValueError, match="unknown engine 'x'"):
        load_predictor(MODEL, engine="x")
    monkeypatch.setattr("beit.deploy.cache.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'onnx is not installed: pip install "beit-paddle\[onnx\]"'):
        compile_tiny("openvino")


def test_an_engine_is_compared_once_and_the_result_is_kept(engine):
    model, log = compile_tiny()
    assert log == []  # nothing is known before the first images
    found = model(images(10))
    assert engine.images == 8 + 10 and list(found.shape) == [10, 5]
    model(images())
    assert engine.images == 8 + 10 + 2
    assert log == ["engine: onnxruntime 1.0 float32, differs from the model by 0.0e+00 of its largest value"]
    again, log = compile_tiny()
    assert log == ["engine: onnxruntime 1.0 float32, differs from the model by 0.0e+00 of its largest value"]
    again(images())
    assert engine.images == 8 + 10 + 2 + 2 and again.engine_name == "onnxruntime 1.0 float32"


def test_images_of_another_size_go_to_the_model(engine):
    called = []

    class Any(paddle.nn.Layer):
        def forward(self, x):
            called.append(list(x.shape))
            return x.mean([1, 2, 3])

    model = CompiledModel(Any(), "logits", size=SIZE, log=called.append)
    model(paddle.zeros([1, 3, 8, 16]))
    assert called == [[1, 3, 8, 16]] and engine.images == 0


def test_an_engine_that_differs_is_not_used(engine):
    engine.factor = 1.01
    model, log = compile_tiny()
    np.testing.assert_array_equal(model(images()).numpy(), MODEL(images()).numpy())
    assert len(log) == 1 and "engine: Paddle (onnxruntime 1.0 float32 differs from the model by" in log[0]
    assert model.engine_name == "paddle 1.0 float32"
    model, _ = compile_tiny("onnxruntime")
    with pytest.raises(
        ValueError, match=r"differs from the model by .* 0.0001 is allowed\. Use --engine paddle"
    ):
        model(images())
    engine.factor = float("nan")
    model, log = compile_tiny()
    assert np.isfinite(model(images()).numpy()).all()


def test_a_lower_precision_may_differ_more_but_the_model_never_replaces_it(engine):
    engine.factor = 1.05
    model, log = compile_tiny("auto", "int8")
    model(images())
    assert model.engine_name == "onnxruntime 1.0 int8" and "int8, differs from the model by 5.0e-02" in log[0]
    _, log = compile_tiny()
    assert log == []  # what was recorded for int8 says nothing about float32
    engine.factor = 1.5
    for name in ("auto", "onnxruntime"):
        Path(model._graph.target.with_suffix(".json")).unlink(missing_ok=True)
        model, _ = compile_tiny(name, "int8")
        with pytest.raises(ValueError, match=r"int8 differs from the model by .*; 0\.3 is allowed"):
            model(images())


def test_a_precision_that_nothing_has_is_refused(engine, monkeypatch):
    with pytest.raises(ValueError, match="precision 'int4' on auto; there are float32 and bfloat16 and int8"):
        compile_tiny("auto", "int4")
    with pytest.raises(ValueError, match="precision 'int4' on auto"):
        load_predictor(MODEL, precision="int4", engine="auto")
    with pytest.raises(ValueError, match="precision 'bfloat16' on onnxruntime; there are float32 and int8"):
        compile_tiny("onnxruntime", "bfloat16")
    with pytest.raises(ValueError, match="'bfloat16' is for engines, and Paddle runs this model"):
        compile_tiny("paddle", "bfloat16")
    with pytest.raises(ValueError, match="no installed engine has this precision"):
        compile_tiny("auto", "bfloat16")
    monkeypatch.setattr(module.paddle, "get_device", lambda: "gpu:0")
    with pytest.raises(ValueError, match=r"Paddle runs this model \(the device is a GPU\)"):
        compile_tiny("auto", "int8")


def test_the_digest_covers_all_that_a_graph_holds(monkeypatch):
    monkeypatch.setattr("beit.deploy.cache.version", lambda name: "1.0")  # onnx is an extra
    first = _digest(randomize(tiny_beit()), "logits", SIZE)
    assert _digest(randomize(tiny_beit()), "logits", SIZE) == first
    changed = randomize(tiny_beit())
    changed.head.bias.set_value(changed.head.bias + 1e-6)
    others = [
        _digest(changed, "logits", SIZE),
        _digest(randomize(tiny_beit(epsilon=1e-5)), "logits", SIZE),
        _digest(randomize(tiny_beit(qk_scale=0.3)), "logits", SIZE),
        _digest(randomize(tiny_beit(activation=paddle.nn.functional.relu)), "logits", SIZE),
        _digest(randomize(tiny_beit()), "features", SIZE),
    ]
    assert len({first, *others}) == 6


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The paths of the graphs that were written, whose files are placeholders."""
    targets = []

    def write(network, target, outputs, *, separate_weights):
        assert network.model is MODEL and outputs == ("logits",) and separate_weights
        targets.append(target)
        for suffix in (".onnx", ".bin"):
            target.with_suffix(suffix).write_text("x" * 8)

    def write_int8(target):
        targets.append(target)
        target.with_suffix(".int8.onnx").write_text("x")

    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    monkeypatch.setattr("beit.deploy.cache.find_spec", lambda name: name)
    monkeypatch.setattr("beit.deploy.cache.version", lambda name: "1")
    monkeypatch.setattr("beit.deploy.cache.write_onnx", write)
    monkeypatch.setattr("beit.deploy.cache.write_int8", write_int8)
    monkeypatch.setattr("beit.deploy.cache._places", lambda file, model: {"head.bias": 4096})
    return targets


def flip(file):
    """Change a byte of a file, whose size stays."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


CHANGES = {
    "flipped": flip,
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("suffix", [".onnx", ".bin", ".json"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_graph_is_written_once_and_again_if_a_file_was_changed(change, suffix, written, tmp_path):
    log = []
    first, again = (CachedGraph(MODEL, "logits", SIZE, log.append) for _ in range(2))
    assert written == [first.target] == [again.target] and first.target.parent == tmp_path / "graphs"
    assert log == []
    first.record("an engine", 0.5)
    assert CachedGraph(MODEL, "logits", SIZE, log.append).difference("an engine") == 0.5
    if suffix == ".json" and change == "flipped":
        return  # a record is text that decides nothing but where weights and differences are
    CHANGES[change](first.target.with_suffix(suffix))
    found = CachedGraph(MODEL, "logits", SIZE, log.append)
    assert len(written) == 2 and found.difference("an engine") is None and found.is_intact()
    if (suffix, change) == (".json", "removed"):
        assert log == []  # as if there were no graph
    else:
        assert log == [
            f"{first.target}.* were changed or removed since they were written: the graph is made anew"
        ]


@pytest.mark.parametrize("change", CHANGES)
def test_the_graph_in_8_bits_is_written_again_if_it_was_changed(change, written):
    graph = CachedGraph(MODEL, "logits", SIZE, print)
    graph.add_int8()
    graph.add_int8()
    assert len(written) == 2
    CHANGES[change](graph.target.with_suffix(".int8.onnx"))
    graph.add_int8()
    assert len(written) == 3 and graph.is_intact() and graph.is_intact([".int8.onnx"])


def test_a_graph_that_another_process_removes_is_made_anew(written, monkeypatch):
    class UnreadableError(Exception):
        """An error of an engine, as onnxruntime's, which is no OSError."""

    class Engine(Doubled):
        is_removed = is_broken = False

        def __init__(self, target, *arguments):
            weights = target.with_suffix(".bin")
            if Engine.is_removed:
                weights.unlink()
                Engine.is_removed = False
            if Engine.is_broken or not weights.is_file():
                raise UnreadableError(target)

    monkeypatch.setitem(ENGINES, "onnxruntime", Engine)
    monkeypatch.setattr(module, "describe", lambda name, kind="float32": f"{name} 1.0")
    Engine.is_removed = True
    _, log = compile_tiny("onnxruntime")
    assert len(written) == 2 and len(log) == 1 and log[0].endswith("the graph is made anew")
    Engine.is_broken = True
    with pytest.raises(UnreadableError):
        compile_tiny("onnxruntime")
    assert len(written) == 2


def test_weights_of_a_model_are_mapped_from_the_file_of_its_graph(tmp_path):
    """A write to the model does not change the file. Weights that the file does not have stay."""
    model = randomize(tiny_beit())
    other = model.head.bias.numpy()
    stored = {"head.weight": 4096, "cls_token": 8192}
    values = {name: model.state_dict()[name].numpy() + 1 for name in stored}
    graph = object.__new__(CachedGraph)
    graph.target = tmp_path / "graph"
    with (tmp_path / "graph.bin").open("wb") as file:
        for name, place in stored.items():
            file.write(b"\0" * (place - file.tell()) + values[name].tobytes())
    graph._write_record({"places of the weights": stored, "an engine": 0.5})
    whole = (tmp_path / "graph.bin").read_bytes()
    graph.map_weights(model)
    for name, expected in values.items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), expected)
    np.testing.assert_array_equal(model.head.bias.numpy(), other)
    model.head.weight.set_value(model.head.weight * 2)
    np.testing.assert_array_equal(model.head.weight.numpy(), 2 * values["head.weight"])
    assert (tmp_path / "graph.bin").read_bytes() == whole and graph.difference("an engine") == 0.5


def test_the_graphs_used_last_stay(tmp_path):
    for number in range(8):
        for suffix in (".onnx", ".bin", ".json", ".int8.onnx"):
            (tmp_path / f"{number}{suffix}").write_text("x")
        os.utime(tmp_path / f"{number}.json", (number, number))
    _remove_old(tmp_path)
    assert {file.name.partition(".")[0] for file in tmp_path.iterdir()} == {"2", "3", "4", "5", "6", "7"}
    assert len(list(tmp_path.iterdir())) == 6 * 4


def test_tasks_without_an_engine_refuse_one(tmp_path):
    from beit.train.run import _engine

    class Other:
        config = tiny_config(ENGINE="openvino")
        uses_engine = False

    with pytest.raises(
        ValueError, match="TASK: classify is evaluated by Paddle in float32 only: leave out -engine=openvino"
    ):
        _engine(Other(), "float32", None)
