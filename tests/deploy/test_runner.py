from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from beit.deploy.description import Description, digests, read_description, write_description
from beit.deploy.engines import ENGINES
from beit.deploy.runner import Runner, load_runner
from beit.preprocessing import Preprocessing

IMAGES = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9, "bilinear", 4)
DESCRIPTION = Description("classify", "topk", ("scores", "classes"), (4, 6), True, IMAGES, ("a", "b"))


def test_a_description_is_read_as_written(tmp_path):
    for description in (
        DESCRIPTION,
        replace(DESCRIPTION, preprocessing=replace(IMAGES, resize=(5, 5), center_crop=False, crop_pct=None)),
        replace(DESCRIPTION, preprocessing=replace(IMAGES, resize=0, reduce_labels=True)),
        Description("segment", "class_map", ("class_map",), (4, 6), False, IMAGES, None, ((1, 2, 3), (4, 5, 6)), {"paddle": 0.5}),
    ):  # fmt: skip
        write_description(tmp_path, description)
        assert read_description(tmp_path) == description


def test_the_british_spelling_of_earlier_exports_is_read(tmp_path):
    write_description(tmp_path, DESCRIPTION)
    file = tmp_path / "export.json"
    file.write_text(file.read_text().replace('"normalized"', '"normalised"'))
    assert read_description(tmp_path) == DESCRIPTION


def test_folders_without_a_complete_export_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m beit export"):
        load_runner(tmp_path)
    for content in ("{", "[]", "{}", json.dumps({"format": 2}), json.dumps({"format": 1, "task": "x"})):
        (tmp_path / "export.json").write_text(content)
        words = r"export.json (does not describe an export|is not valid JSON|holds a list)"
        with pytest.raises(ValueError, match=words):
            load_runner(tmp_path)
    write_description(tmp_path, DESCRIPTION)
    with pytest.raises(FileNotFoundError, match="model.json does not exist"):
        load_runner(tmp_path)
    with pytest.raises(
        ValueError, match="unknown engine 'tensorrt'; there are auto, openvino, onnxruntime, paddle"
    ):
        load_runner(tmp_path, "tensorrt")
    with pytest.raises(ValueError, match="there are float32 and bfloat16"):
        load_runner(tmp_path, precision="int4")


def test_an_engine_that_cannot_be_imported_is_named_with_the_reason(tmp_path, monkeypatch):
    """As an onnxruntime for NumPy 1 in an environment with NumPy 2."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text('raise ImportError("compiled for NumPy 1")')
    (tmp_path / "onnxruntime-1.2.3.dist-info").mkdir()
    (tmp_path / "onnxruntime-1.2.3.dist-info" / "METADATA").write_text("Name: onnxruntime\nVersion: 1.2.3\n")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    message = r'onnxruntime 1\.2\.3 cannot be imported \(compiled for NumPy 1\): pip install --upgrade "beit-paddle\[onnx\]"'
    with pytest.raises(ValueError, match=message):
        ENGINES["onnxruntime"](tmp_path / "model", "float32", 1, "classify")


def test_images_are_checked_and_normalized_and_results_are_named():
    seen = []

    def engine(images):
        seen.append(images)
        return [np.zeros(1), np.ones(1)]

    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 6)).astype(np.uint8)
    assert list(Runner(DESCRIPTION, engine)(images)) == ["scores", "classes"]
    expected = (images / 255 - np.reshape(IMAGES.mean, (3, 1, 1))) / np.reshape(IMAGES.std, (3, 1, 1))
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)
    assert seen[0].dtype == np.float32
    for wrong in (images[:, :, :3], images[0], images.astype(np.float32)):
        with pytest.raises(ValueError, match=r"expected uint8 images \[B, 3, 4, 6\]"):
            Runner(DESCRIPTION, engine)(wrong)


def test_files_that_changed_since_the_export_are_refused(tmp_path):
    for name in ("model.json", "model.pdiparams", "model.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    description = replace(DESCRIPTION, files=digests(tmp_path))
    write_description(tmp_path, description)
    assert read_description(tmp_path) == description and set(description.files) == {
        "model.json",
        "model.pdiparams",
        "model.onnx",
    }
    for name, engine in (
        ("model.json", "paddle"),
        ("model.pdiparams", "paddle"),
        ("model.onnx", "onnxruntime"),
        ("model.onnx", "openvino"),
    ):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(ValueError, match=rf"{name} has changed since the export.*export the model again"):
            load_runner(tmp_path, engine)
        (tmp_path / name).write_bytes(whole)


def test_auto_takes_only_engines_that_were_compared_at_the_export(tmp_path, monkeypatch):
    class ChosenError(Exception):
        pass

    class Fake:
        package, suffixes = "numpy", ()

        def __init__(self, target, precision, threads, task):
            raise ChosenError(type(self).__name__)

    precisions = {
        "openvino": ("float32", "int8"),
        "onnxruntime": ("float32", "int8"),
        "paddle": ("float32", "bfloat16"),
    }
    for name, kinds in precisions.items():
        monkeypatch.setitem(ENGINES, name, type(name, (Fake,), {"precisions": kinds}))
    # There OpenVINO is the first.
    monkeypatch.setattr("beit.deploy.engines.cpu_vendor", lambda: "GenuineIntel")
    for measured, precision, expected in (
        ({}, "float32", "paddle"),
        ({"paddle": 0.0, "onnxruntime": 0.0}, "float32", "onnxruntime"),
        ({"paddle": 0.0, "onnxruntime": 0.0, "openvino": 0.0}, "float32", "openvino"),
        ({"paddle": 0.0, "onnxruntime": 0.0, "openvino": 0.0}, "bfloat16", "paddle"),
        ({"paddle": 0.0, "onnxruntime": 0.0, "openvino": 0.0}, "int8", "openvino"),
        ({"paddle": 0.0, "onnxruntime": 0.0, "openvino": 0.0, "int8": {}}, "int8", "onnxruntime"),
    ):
        write_description(tmp_path, replace(DESCRIPTION, measured=measured))
        with pytest.raises(ChosenError, match=expected):
            load_runner(tmp_path, "auto", precision=precision)


def test_exports_of_earlier_versions_have_no_digests(tmp_path):
    write_description(tmp_path, DESCRIPTION)
    file = tmp_path / "export.json"
    content = json.loads(file.read_text())
    del content["files"]
    file.write_text(json.dumps(content))
    assert read_description(tmp_path) == DESCRIPTION
    for files in ([], {"model.json": 3}, "x"):
        file.write_text(json.dumps(content | {"files": files}))
        with pytest.raises(ValueError, match="does not describe an export"):
            read_description(tmp_path)
