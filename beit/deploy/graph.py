"""Writing a network as a static graph of Paddle and as ONNX."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from beit.deploy.network import ExportedNetwork

_OPSET = 17  # the newest that paddle2onnx 2.1 writes directly
_NO_ONNX = (
    'ONNX needs paddle2onnx and onnxruntime[quantization], which are not installed: pip install "beit-paddle[onnx]" (paddle2onnx '
    "2.1.0 needs onnx 1.16.1 to 1.17.0; if another package needs a newer one, use a separate environment)"
)


def write_graph(network: ExportedNetwork, target: Path) -> list[Path]:
    """Write a static graph with a free batch size; its files, `target` + `.json` and `.pdiparams`.

    With FLAGS_enable_pir_api=0 in the environment Paddle writes its older format, `.pdmodel`, instead of `.json`.

    Raises:
        ValueError: this version of Paddle cannot write the older format.
    """
    dtype = "float32" if network.mean is None else "uint8"
    spec = paddle.static.InputSpec([None, 3, *network.size], dtype, "images")
    try:
        paddle.jit.save(paddle.jit.to_static(network, input_spec=[spec], full_graph=True), str(target))
    except TypeError as error:
        if paddle.get_flags("FLAGS_enable_pir_api")["FLAGS_enable_pir_api"]:
            raise
        raise ValueError(
            f"Paddle {paddle.__version__} cannot write .pdmodel files any more (its matmul accepts no variables of the "
            "older format); export with Paddle 3.0 for them, or without FLAGS_enable_pir_api=0 for .json"
        ) from error
    return [graph_file(target), target.with_suffix(".pdiparams")]


def graph_file(target: Path) -> Path:
    """The file of the graph at `target`: `.json`, or `.pdmodel` in Paddle's older format.

    Raises:
        FileNotFoundError: there is neither of them.
    """
    for suffix in (".json", ".pdmodel"):
        if target.with_suffix(suffix).is_file():
            return target.with_suffix(suffix)
    raise FileNotFoundError(f"{target}.json does not exist, and neither does {target.name}.pdmodel")


def write_onnx(target: Path, outputs: Sequence[str]) -> Path:
    """Convert a graph to ONNX; the file, `target` + `.onnx`.

    Args:
        target: the graph, as `write_graph` wrote it.
        outputs: names to give to its results, in order.

    Raises:
        ValueError: paddle2onnx is not installed or cannot convert the graph.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  # needed to check the file
        import paddle2onnx
    except ImportError as error:
        raise ValueError(_NO_ONNX) from error
    file = target.with_suffix(".onnx")
    try:
        # The optimizer folds constants wrongly if the batch size is free.
        paddle2onnx.export(
            str(graph_file(target)),
            str(target.with_suffix(".pdiparams")),
            str(file),
            opset_version=_OPSET,
            auto_upgrade_opset=False,
            verbose=False,
            optimize_tool="None",
        )
    except (RuntimeError, UnboundLocalError) as error:  # UnboundLocalError: it logs the failure and continues
        raise ValueError(
            f"paddle2onnx {paddle2onnx.__version__} cannot convert the graph: {error}"
        ) from error
    model = onnx.load(str(file))
    _repair(model, outputs)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))
    return file


def write_int8(target: Path) -> Path:
    """Write the ONNX file of a graph with the weights of matrix products in 8 bits; the file, `target` + `.int8.onnx`.

    Activations are quantized at run time (onnxruntime's dynamic quantization), so no calibration is needed.

    Raises:
        ValueError: a package that quantizes is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except (
        ImportError
    ) as error:  # also without ml_dtypes, which onnxruntime installs for [quantization] alone
        raise ValueError(_NO_ONNX) from error
    source, file = target.with_suffix(".onnx"), target.with_suffix(".int8.onnx")
    graph = onnx.load(str(source)).graph
    weights = {tensor.name for tensor in graph.initializer}
    products = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    with _quiet():
        quantize_dynamic(
            str(source),
            str(file),
            nodes_to_quantize=products,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    return file


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress log lines: the quantizer writes one per tensor."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _repair(model: Any, outputs: Sequence[str]) -> None:
    """Repair the ONNX model that paddle2onnx 2.1 writes for a graph with a free batch size, and name its results.

    Paddle's expand keeps the length of an axis with -1; ONNX has no such number and keeps it with 1. Weights become
    initializers, where other tools expect them.
    """
    from onnx import numpy_helper

    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    shapes = {node.input[1] for node in graph.node if node.op_type == "Expand"}
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        graph.node.remove(node)
        name = node.output[0]
        if name in shapes:
            shape = numpy_helper.to_array(node.attribute[0].t)
            graph.initializer.append(numpy_helper.from_array(np.where(shape < 0, 1, shape), name))
        elif name in used:
            tensor = node.attribute[0].t
            tensor.name = name
            graph.initializer.append(tensor)
    names = {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in graph.output:
        value.name = names[value.name]
