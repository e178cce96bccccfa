"""Writing a network as a static graph of Paddle and as ONNX."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import paddle

from beit.deploy.network import ExportedNetwork, tracing
from beit.deploy.onnx_graph import build_onnx
from beit.files import replacing

_NO_PRODUCTS = "the graph has no matrix products, whose weights int8 stores in 8 bits; leave int8 out"
_NO_ONNX = (
    "8-bit weights need onnx and onnxruntime[quantization], which cannot be imported ({}): "
    'pip install --upgrade "beit-paddle[onnx]"'
)


def write_graph(network: ExportedNetwork, target: Path) -> list[Path]:
    """Write a static graph with a free batch size; its files, `target` + `.json` and `.pdiparams`.

    With FLAGS_enable_pir_api=0 in the environment Paddle writes its older format, `.pdmodel`, instead of `.json`.

    Raises:
        ValueError: this version of Paddle cannot write the older format.
    """
    try:
        with tracing(network):
            traced = paddle.jit.to_static(network, input_spec=[input_spec(network)], full_graph=True)
            paddle.jit.save(traced, str(target))
    except TypeError as error:
        if paddle.get_flags("FLAGS_enable_pir_api")["FLAGS_enable_pir_api"]:
            raise
        raise ValueError(
            f"Paddle {paddle.__version__} cannot write .pdmodel files any more (its matmul accepts no variables of the "
            "older format); export with Paddle 3.0 for them, or without FLAGS_enable_pir_api=0 for .json"
        ) from error
    return [graph_file(target), target.with_suffix(".pdiparams")]


def input_spec(network: ExportedNetwork) -> paddle.static.InputSpec:
    """Name, shape and type of the images that a network takes; their number is free."""
    dtype = "float32" if network.mean is None else "uint8"
    return paddle.static.InputSpec([None, 3, *network.size], dtype, "images")


def graph_file(target: Path) -> Path:
    """The file of the graph at `target`: `.json`, or `.pdmodel` in Paddle's older format.

    Raises:
        FileNotFoundError: there is neither of them.
    """
    for suffix in (".json", ".pdmodel"):
        if target.with_suffix(suffix).is_file():
            return target.with_suffix(suffix)
    raise FileNotFoundError(f"{target}.json does not exist, and neither does {target.name}.pdmodel")


def write_onnx(
    network: ExportedNetwork, target: Path, outputs: Sequence[str], *, separate_weights: bool = False
) -> Path:
    """Write a network as ONNX with a free batch size; the file, `target` + `.onnx`.

    Args:
        network: from images to results.
        target: path without extension.
        outputs: names to give to its results, in order.
        separate_weights: write the weights into `target` + `.bin`, which engines map into memory.

    Raises:
        ValueError: onnx is not installed, or the graph has an operator that is not translated.
    """
    file = target.with_suffix(".onnx")
    if separate_weights:
        weights = target.with_suffix(".bin")
        with replacing(weights) as data:
            model = build_onnx(network, input_spec(network), outputs, data=data, data_name=weights.name)
    else:
        model = build_onnx(network, input_spec(network), outputs)
    with replacing(file) as stream:
        stream.write(model.SerializeToString())
    return file


def write_int8(target: Path) -> Path:
    """Write the ONNX file of a graph with the weights of matrix products in 8 bits; the file, `target` + `.int8.onnx`.

    Activations are quantized at run time (onnxruntime's dynamic quantization), so no calibration is needed.

    Raises:
        ValueError: a package that quantizes is not installed, or the graph has no such weights (DALL-E's).
    """
    # onnxruntime's quantization imports ml_dtypes, which only its extra [quantization] installs.
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ValueError(_NO_ONNX.format(error)) from error
    source, file = target.with_suffix(".onnx"), target.with_suffix(".int8.onnx")
    graph = onnx.load(str(source), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    products = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    if not products:  # the quantizer would take an empty list for all nodes
        raise ValueError(_NO_PRODUCTS)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    try:
        with _quiet():
            quantize_dynamic(
                str(source),
                str(unfinished),
                nodes_to_quantize=products,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
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
