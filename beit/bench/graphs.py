"""timm's model as an ONNX file on an engine: steps for `beit.bench.worker` that import neither Paddle nor PyTorch.

Only the first process of a benchmark, which writes the file, imports PyTorch and timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beit.bench.worker import Step


def onnxruntime_infer(work: Mapping[str, Any]) -> Step:
    """Logits by onnxruntime."""
    file, images = (
        _file(work),
        _images(work),
    )  # before the import: PyTorch brings an OpenMP library of its own
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work["threads"]
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})[0]


def openvino_infer(work: Mapping[str, Any]) -> Step:
    """Logits by OpenVINO in float32."""
    file, images = _file(work), _images(work)
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": work["threads"]}
    request = openvino.compile_model(str(file), "CPU", settings).create_infer_request()
    return lambda: request.infer([images], share_inputs=True)[0]


def _file(work: Mapping[str, Any]) -> Path:
    """The ONNX file of timm's model, for the batch size of the work."""
    file = Path(work["folder"]) / f"timm-{work['batch']}.onnx"
    if not file.is_file():
        from beit.bench.baselines import export_onnx

        export_onnx(work, file)
    return file


def _images(work: Mapping[str, Any]) -> np.ndarray:
    with np.load(work["inputs"]) as file:
        images: np.ndarray = file["images"]
    return images
