"""Running an exported model on Paddle Inference or on onnxruntime, with one interface.

Neither the network nor the training code is imported; with onnxruntime Paddle is not imported either.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit.cpu import before_paddle
from beit.deploy.description import GRAPH, Description, check_files, read_description

Session = Callable[[np.ndarray], list[np.ndarray]]

_CHUNK = 8
"""Images per call of Paddle Inference: with 32 it is a quarter slower, since the activations exceed the CPU caches."""


@dataclass(frozen=True)
class Runner:
    """An exported model. Call it with a batch of images; several threads may share it.

    Args:
        description: of its inputs and outputs.
        session: runs the graph: images to results in the order of `description.outputs`.
    """

    description: Description
    session: Session

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The results by name, for uint8 images `[B, 3, height, width]` (`description.open` reads one from a file).

        Raises:
            ValueError: the images have another shape or type.
        """
        expected = (3, *self.description.image_size)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"expected uint8 images [B, {', '.join(map(str, expected))}], got {images.dtype} {list(images.shape)}"
            )
        if self.description.normalized:
            images = self.description.normalize(images)
        return dict(zip(self.description.outputs, self.session(images), strict=True))


def load_runner(
    folder: str | Path, backend: str = "paddle", *, precision: str = "float32", threads: int = 0
) -> Runner:
    """The model in a folder that `python -m beit export` wrote.

    Args:
        folder: with `export.json` and the graph.
        backend: "paddle" or "onnx".
        precision: "float32"; with Paddle also "bfloat16", with ONNX also "int8" if it was exported.
        threads: number of threads of the engine; 0 for one per core.

    Raises:
        FileNotFoundError: a file of the export is missing.
        ValueError: unknown backend or precision, this machine cannot run it, or a file has changed since the export.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; there are {', '.join(BACKENDS)}")
    description = read_description(folder)
    if description.task == "segment" and precision == "bfloat16":
        raise ValueError("bfloat16 runs on oneDNN, which cannot resize class maps; use float32")
    check_files(Path(folder), description, _SUFFIXES[backend])
    session = BACKENDS[backend](
        Path(folder) / GRAPH, precision, threads or os.cpu_count() or 1, description.task != "segment"
    )
    return Runner(description, session)


def _paddle_session(target: Path, precision: str, threads: int, onednn: bool) -> Session:
    if "paddle" not in sys.modules:
        before_paddle()
    import paddle
    from paddle import inference

    from beit.deploy.graph import graph_file

    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision {precision!r} on Paddle; there are float32 and bfloat16")
    config = inference.Config(str(graph_file(target)), str(target.with_suffix(".pdiparams")))
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    if onednn:
        config.enable_mkldnn()
    else:  # Paddle 3.3: "ConvertPirAttribute2RuntimeAttribute not support" at the bilinear resizing
        config.disable_mkldnn()
    if precision == "bfloat16":
        if not paddle.amp.is_bfloat16_supported("cpu"):
            raise ValueError("this CPU has no bfloat16 arithmetic (AVX-512 is needed); use float32")
        config.enable_mkldnn_bfloat16()
    predictor = inference.create_predictor(config)
    lock = threading.Lock()  # a predictor stores its inputs and results

    def run_chunk(images: np.ndarray) -> list[np.ndarray]:
        handle = predictor.get_input_handle(predictor.get_input_names()[0])
        handle.copy_from_cpu(np.ascontiguousarray(images))
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    def run(images: np.ndarray) -> list[np.ndarray]:
        with lock:
            parts = [
                run_chunk(images[first : first + _CHUNK]) for first in range(0, max(1, len(images)), _CHUNK)
            ]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    return run


def _onnx_session(target: Path, precision: str, threads: int, _: bool) -> Session:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError("onnxruntime is not installed: pip install onnxruntime") from error
    suffixes = {"float32": ".onnx", "int8": ".int8.onnx"}
    if precision not in suffixes:
        raise ValueError(f"precision {precision!r} on ONNX; there are {' and '.join(suffixes)}")
    file = target.with_suffix(suffixes[precision])
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; export it with `python -m beit export … --onnx`")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


_SUFFIXES = {"paddle": (".json", ".pdmodel", ".pdiparams"), "onnx": (".onnx",)}
"""Name of a backend -> extensions of its files."""

BACKENDS: dict[str, Callable[[Path, str, int, bool], Session]] = {
    "paddle": _paddle_session,
    "onnx": _onnx_session,
}
"""Name of a backend -> function that opens a graph: its path without extension, precision, threads, use of oneDNN."""
