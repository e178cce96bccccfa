"""bfloat16 on engines: results where the processor has its arithmetic, a refusal where it does not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from beit.beit import build_beit
from beit.deploy.engines import ENGINES
from beit.deploy.export import export
from beit.deploy.runner import load_runner
from beit.predict.classifier import classifier
from tests.tiny import logits_of, randomize, tiny_config

REFUSAL = r"this CPU has no bfloat16 arithmetic \(AVX-512 is needed\); use float32"
needs_bfloat16 = pytest.mark.skipif(
    not paddle.amp.is_bfloat16_supported("cpu"), reason="this CPU has no bfloat16 arithmetic (AVX-512)"
)


class Float32Core:
    """OpenVINO's `Core` on a processor without bfloat16."""

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32", "INT8"]

    def compile_model(self, *arguments):
        raise AssertionError("the graph was compiled")


@pytest.mark.parametrize("name", ENGINES)
def test_bfloat16_is_refused_without_its_arithmetic(name, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda device: False)
    monkeypatch.setattr(
        "beit.deploy.engines._require", lambda name: SimpleNamespace(Core=Float32Core, InferenceSession=None)
    )
    for suffix in ENGINES[name].suffixes:
        (tmp_path / f"model{suffix}").touch()
    words = REFUSAL if "bfloat16" in ENGINES[name].precisions else "there are float32 and int8"
    with pytest.raises(ValueError, match=words):
        ENGINES[name](tmp_path / "model", "bfloat16", 1, "classify")


def test_an_export_states_that_bfloat16_was_refused(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda device: False)
    measured = export(random_classifier(), tmp_path / "out", photographs, bfloat16=True).measured
    assert "no bfloat16 arithmetic" in measured["bfloat16"]


def random_classifier():
    return classifier(randomize(build_beit(tiny_config()), scale=0.1))


def check(name, model, photographs, folder):
    expected = logits_of(model, photographs)
    runner = load_runner(folder, name, precision="bfloat16", threads=1)
    images = np.stack([runner.description.open(path) for path in photographs])
    difference = np.abs(runner(images)["logits"] - expected).max() / max(1, np.abs(expected).max())
    assert runner.name.endswith(" in bfloat16") and 0 < difference < 0.1


@needs_bfloat16
def test_paddle_in_bfloat16(photographs, tmp_path):
    model = random_classifier()
    measured = export(model, tmp_path / "out", photographs, bfloat16=True).measured
    assert 0 < measured["bfloat16"]["largest"] < 0.1
    check("paddle", model, photographs, tmp_path / "out")


@needs_bfloat16
@pytest.mark.onnx
def test_openvino_in_bfloat16(photographs, tmp_path):
    model = random_classifier()
    export(model, tmp_path / "out", photographs, onnx=True)
    check("openvino", model, photographs, tmp_path / "out")
