"""The engines that run exported graphs: one class each, with one interface.

Neither the network nor the training code is imported; only Paddle's engine imports Paddle.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np

from beit.cpu import before_paddle, cpu_vendor
from beit.streams import STDOUT, without_line

AUTO = "auto"
PRECISIONS = ("float32", "bfloat16", "int8")

_NO_PRODUCTS = "the graph has no matrix products, whose weights int8 stores in 8 bits; use float32"
_NO_BFLOAT16 = "this CPU has no bfloat16 arithmetic (AVX-512 is needed); use float32"
_CHUNK = 8
"""Images per call of Paddle Inference: with 32 it is a quarter slower, since the activations exceed the CPU caches."""
_PER_THREAD = 2
"""Images per thread in a call of onnxruntime: with 16 it is a tenth slower and needs twice the memory."""


class Engine(Protocol):
    """A graph that is ready to run on the CPU: images to results, in the order of the graph; threads may share it.

    The constructors take the path of the graph without extension, one of `precisions`, the number of threads, and the TASK
    of the model. They raise `FileNotFoundError` if the graph was not written in this format, and `ValueError` if the
    package is not installed or the engine or this machine does not have the precision.
    """

    package: ClassVar[str]
    """The package that must be installed."""
    extra: ClassVar[str]
    """The extra of this project that installs it."""
    suffixes: ClassVar[tuple[str, ...]]
    """Extensions of the files of a graph."""
    precisions: ClassVar[tuple[str, ...]]
    """The numbers that it computes with, of `PRECISIONS`."""

    def __init__(self, target: Path, precision: str, threads: int, task: str) -> None: ...

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The results for images `[B, 3, H, W]`."""


class PaddleEngine:
    """Paddle Inference; in bfloat16 on CPUs with AVX-512."""

    package: ClassVar[str] = "paddle"
    extra: ClassVar[str] = "cpu"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".pdmodel", ".pdiparams")
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    def __init__(self, target: Path, precision: str, threads: int, task: str) -> None:
        if "paddle" not in sys.modules:
            before_paddle()
        import paddle
        from paddle import inference

        from beit.deploy.graph import graph_file

        check_precision("paddle", precision)
        if task == "segment" and precision == "bfloat16":
            raise ValueError("bfloat16 runs on oneDNN, which cannot resize class maps; use float32")
        if precision == "bfloat16" and not paddle.amp.is_bfloat16_supported("cpu"):
            raise ValueError(_NO_BFLOAT16)
        config = inference.Config(str(graph_file(target)), str(target.with_suffix(".pdiparams")))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        if task != "segment":
            config.enable_mkldnn()
        else:  # Paddle 3.3: "ConvertPirAttribute2RuntimeAttribute not support" at the bilinear resizing
            config.disable_mkldnn()
        if precision == "bfloat16":
            config.enable_mkldnn_bfloat16()
        self._predictor = inference.create_predictor(config)
        self._lock = threading.Lock()  # a predictor stores its inputs and results
        self._has_run = False

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The results for images `[B, 3, H, W]`."""
        with self._lock:
            return _in_parts(self._run, images, _CHUNK)

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        predictor = self._predictor
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(np.ascontiguousarray(images))
        if self._has_run:
            predictor.run()
        else:  # oneDNN's mean prints the name of a C++ function, where the results of a program belong
            with without_line(STDOUT, "ReduceMeanCheckIfOneDNNSupport"):
                predictor.run()
            self._has_run = True
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


class OnnxruntimeEngine:
    """onnxruntime; with 8-bit weights and activations if the graph was written with them (`write_int8`)."""

    package: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    precisions: ClassVar[tuple[str, ...]] = ("float32", "int8")

    def __init__(self, target: Path, precision: str, threads: int, task: str) -> None:
        check_precision("onnxruntime", precision)
        onnxruntime = _require("onnxruntime")
        file = _existing(target.with_suffix(".int8.onnx" if precision == "int8" else ".onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._part = _PER_THREAD * threads

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The results for images `[B, 3, H, W]`."""
        return _in_parts(lambda part: self._session.run(None, {self._input: part}), images, self._part)


class OpenVinoEngine:
    """OpenVINO, on the same ONNX file as onnxruntime; int8 stores the weights of matrix products in 8 bits."""

    package: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bfloat16", "int8")

    def __init__(self, target: Path, precision: str, threads: int, task: str) -> None:
        check_precision("openvino", precision)
        openvino = _require("openvino")
        file = _existing(target.with_suffix(".onnx"))
        core = openvino.Core()
        if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ValueError(_NO_BFLOAT16)
        settings = {
            # Without it OpenVINO computes in bfloat16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if precision == "int8":
            graph = core.read_model(str(file))
            _compress_weights(graph)
            self._model = core.compile_model(graph, "CPU", settings)
        else:
            self._model = core.compile_model(str(file), "CPU", settings)
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
"""Name of an engine -> its class."""


def check_name(name: str) -> None:
    """Refuse a name that is neither an engine nor `auto`.

    Raises:
        ValueError: it is unknown.
    """
    if name != AUTO and name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; there are {', '.join((AUTO, *ENGINES))}")


def check_precision(name: str, precision: str) -> None:
    """Refuse a precision that an engine does not have; for `auto` one that none has.

    Raises:
        ValueError: it does not.
    """
    possible = PRECISIONS if name == AUTO else ENGINES[name].precisions
    if precision not in possible:
        raise ValueError(f"precision {precision!r} on {name}; there are {' and '.join(possible)}")


def is_installed(name: str) -> bool:
    """Whether the package of an engine can be imported."""
    return find_spec(ENGINES[name].package) is not None


def preferred(precision: str) -> list[str]:
    """The installed engines besides Paddle that have a precision, the fastest first (`fastest_first`)."""
    return [
        name
        for name in fastest_first(precision)
        if precision in ENGINES[name].precisions and is_installed(name)
    ]


def fastest_first(precision: str) -> list[str]:
    """The engines besides Paddle, installed or not, the one that was the fastest in measurements first.

    In float32 OpenVINO is the fastest on Intel's processors and onnxruntime on AMD's (docs/speed.md). In int8 it is
    onnxruntime, which quantizes the activations as well; OpenVINO multiplies in float32 where the processor has no 8-bit
    products.
    """
    names = ["onnxruntime", "openvino"]
    if precision == "float32" and cpu_vendor() == "GenuineIntel":
        names.reverse()
    return names


def describe(name: str, precision: str = "float32") -> str:
    """An engine with its version and, if it is not float32, its precision, for messages and as part of a cache key."""
    if name == "paddle":
        import paddle

        number = paddle.__version__  # the distribution has another name on a GPU
    else:
        number = version(ENGINES[name].package)
    return f"{name} {number}" if precision == "float32" else f"{name} {number} in {precision}"


def _in_parts(
    run: Callable[[np.ndarray], list[np.ndarray]], images: np.ndarray, size: int
) -> list[np.ndarray]:
    """The results of `run` for images, of which it gets at most `size` at once."""
    parts = [run(images[first : first + size]) for first in range(0, max(1, len(images)), size)]
    return parts[0] if len(parts) == 1 else [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _compress_weights(graph: Any) -> None:
    """Replace the weights of matrix products in an OpenVINO graph by 8-bit integers times a factor per column.

    It is the pattern of OpenVINO's weight compression, which the engine runs without expanding the weights. OpenVINO's
    own tool that writes it, nncf, would bring pandas, scikit-learn and ten other packages.

    Raises:
        ValueError: the graph has no such weights.
    """
    from openvino import opset13 as operators

    compressed = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant" or len(constant.shape) != 2:
            continue
        weights = constant.data  # [in, out]
        factors = np.maximum(np.abs(weights).max(axis=0, keepdims=True), np.finfo(np.float32).tiny) / 127
        numbers = operators.constant(np.rint(weights / factors).astype(np.int8))
        expanded = operators.multiply(operators.convert(numbers, "f32"), operators.constant(factors))
        node.input(1).replace_source_output(expanded.output(0))
        compressed += 1
    if not compressed:
        raise ValueError(_NO_PRODUCTS)


def _require(name: str) -> ModuleType:
    if not is_installed(name):
        raise ValueError(f'{name} is not installed: pip install "beit-paddle[{ENGINES[name].extra}]"')
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{name} {version(ENGINES[name].package)} cannot be imported ({error}): "
            f'pip install --upgrade "beit-paddle[{ENGINES[name].extra}]"'
        ) from error


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; export it with `python -m beit export … --onnx`")
    return file
