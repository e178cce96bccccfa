"""The engines that run exported graphs: one class each, with one interface.

Neither the network nor the training code is imported; only Paddle's engine imports Paddle.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Protocol

import numpy as np

from beit.cpu import before_paddle

AUTO = "auto"

_CHUNK = 8
"""Images per call of Paddle Inference: with 32 it is a quarter slower, since the activations exceed the CPU caches."""


class Engine(Protocol):
    """A graph that is ready to run on the CPU: images to results, in the order of the graph; threads may share it.

    The constructors take the path of the graph without extension, the precision, the number of threads, and the TASK of
    the model. They raise `FileNotFoundError` if the graph was not written in this format, and `ValueError` if the package
    is not installed or the engine or this machine does not have the precision.
    """

    package: ClassVar[str]
    """The package that must be installed."""
    extra: ClassVar[str]
    """The extra of this project that installs it."""
    suffixes: ClassVar[tuple[str, ...]]
    """Extensions of the files of a graph."""

    def __init__(self, target: Path, precision: str, threads: int, task: str) -> None: ...

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The results for images `[B, 3, H, W]`."""


class PaddleEngine:
    """Paddle Inference; in bfloat16 on CPUs with AVX-512."""

    package: ClassVar[str] = "paddle"
    extra: ClassVar[str] = "cpu"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".pdmodel", ".pdiparams")

    def __init__(self, target: Path, precision: str, threads: int, task: str) -> None:
        if "paddle" not in sys.modules:
            before_paddle()
        import paddle
        from paddle import inference

        from beit.deploy.graph import graph_file

        _check_precision("paddle", precision, ("float32", "bfloat16"))
        if task == "segment" and precision == "bfloat16":
            raise ValueError("bfloat16 runs on oneDNN, which cannot resize class maps; use float32")
        config = inference.Config(str(graph_file(target)), str(target.with_suffix(".pdiparams")))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        if task != "segment":
            config.enable_mkldnn()
        else:  # Paddle 3.3: "ConvertPirAttribute2RuntimeAttribute not support" at the bilinear resizing
            config.disable_mkldnn()
        if precision == "bfloat16":
            if not paddle.amp.is_bfloat16_supported("cpu"):
                raise ValueError("this CPU has no bfloat16 arithmetic (AVX-512 is needed); use float32")
            config.enable_mkldnn_bfloat16()
        self._predictor = inference.create_predictor(config)
        self._lock = threading.Lock()  # a predictor stores its inputs and results

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The results for images `[B, 3, H, W]`."""
        with self._lock:
            starts = range(0, max(1, len(images)), _CHUNK)
            parts = [self._run(images[first : first + _CHUNK]) for first in starts]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        predictor = self._predictor
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(np.ascontiguousarray(images))
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


class OnnxruntimeEngine:
    """onnxruntime; with 8-bit weights if the graph was written with them."""

    package: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)

    def __init__(self, target: Path, precision: str, threads: int, task: str) -> None:
        files = {"float32": ".onnx", "int8": ".int8.onnx"}
        _check_precision("onnxruntime", precision, tuple(files))
        onnxruntime = _require("onnxruntime")
        file = _existing(target.with_suffix(files[precision]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The results for images `[B, 3, H, W]`."""
        results: list[np.ndarray] = self._session.run(None, {self._input: images})
        return results


class OpenVinoEngine:
    """OpenVINO, on the same ONNX file as onnxruntime."""

    package: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)

    def __init__(self, target: Path, precision: str, threads: int, task: str) -> None:
        _check_precision("openvino", precision, ("float32", "bfloat16"))
        openvino = _require("openvino")
        file = _existing(target.with_suffix(".onnx"))
        settings = {
            # Without it OpenVINO computes in bfloat16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model = openvino.compile_model(str(file), "CPU", settings)
        self._local = threading.local()  # a request stores its inputs and results

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The results for images `[B, 3, H, W]`."""
        if not hasattr(self._local, "request"):
            self._local.request = self._model.create_infer_request()
        found = self._local.request.infer([images], share_inputs=True)
        return [found[number] for number in range(len(self._model.outputs))]


ENGINES: dict[str, type[Engine]] = {
    "openvino": OpenVinoEngine,
    "onnxruntime": OnnxruntimeEngine,
    "paddle": PaddleEngine,
}
"""Name of an engine -> its class; `auto` takes the first that is installed."""


def check_name(name: str) -> None:
    """Refuse a name that is neither an engine nor `auto`.

    Raises:
        ValueError: it is unknown.
    """
    if name != AUTO and name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; there are {', '.join((AUTO, *ENGINES))}")


def is_installed(name: str) -> bool:
    """Whether the package of an engine can be imported."""
    return find_spec(ENGINES[name].package) is not None


def describe(name: str) -> str:
    """An engine with its version, for messages and as part of a cache key."""
    if name == "paddle":
        import paddle

        return f"paddle {paddle.__version__}"  # the distribution has another name on a GPU
    return f"{name} {version(ENGINES[name].package)}"


def _check_precision(name: str, precision: str, possible: tuple[str, ...]) -> None:
    if precision not in possible:
        raise ValueError(f"precision {precision!r} on {name}; there are {' and '.join(possible)}")


def _require(name: str) -> ModuleType:
    if not is_installed(name):
        raise ValueError(f'{name} is not installed: pip install "beit-paddle[{ENGINES[name].extra}]"')
    return import_module(name)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; export it with `python -m beit export … --onnx`")
    return file
