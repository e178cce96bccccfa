"""Paddle's traced graph of a network, translated into an ONNX model operator by operator.

The network is traced and not written a second time, so the graph follows every change of the model. An operator that is
missing in `OPERATORS` is an error that names it. Only the `onnx` package is needed, in any version with opset 17.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import paddle
from paddle import nn

from beit.deploy.network import tracing
from beit.deploy.onnx_builder import Graph
from beit.deploy.onnx_operators import OPERATORS

_OPSET = 17  # the first with LayerNormalization
_IR_VERSION = 8  # that of opset 17; onnx would write its newest, which earlier engines refuse
_NO_ONNX = 'ONNX graphs need onnx, which is not installed: pip install "beit-paddle[onnx]"'


def build_onnx(
    network: nn.Layer,
    spec: paddle.static.InputSpec,
    outputs: Sequence[str],
    *,
    data: BinaryIO | None = None,
    data_name: str = "",
) -> Any:
    """The ONNX model (`onnx.ModelProto`) of a network in evaluation mode.

    Args:
        network: takes one tensor and returns a tensor or a tuple of tensors.
        spec: name, shape and type of the input; an axis of size None stays free.
        outputs: names to give to the results, in order.
        data: open file that takes the values of the weights, which engines map into memory; None to keep them in the model.
        data_name: name of that file, relative to the model's.

    Raises:
        ValueError: onnx is not installed, or the graph has an operator that cannot be translated.
    """
    try:
        import onnx
    except ImportError as error:
        raise ValueError(_NO_ONNX) from error
    with tracing(network):
        traced = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
        program = traced.forward.concrete_program
    weights = {tensor.name: tensor for tensor in (*network.parameters(), *network.buffers())}
    graph = Graph(weights, data, data_name)
    for operator in program.main_program.global_block().ops:
        name = operator.name()
        if name not in OPERATORS:
            raise ValueError(
                f"the graph has the operator {name}, which beit.deploy.onnx_operators does not translate; use Paddle's engine"
            )
        graph.add(operator, OPERATORS[name])
    results = [
        graph.rename(value, name)
        for value, name in zip(paddle.utils.flatten(program.outputs), outputs, strict=True)
    ]
    nodes = _used_nodes(graph.nodes, outputs)
    used = {name for node in nodes for name in node.input}
    constants = [tensor for name, tensor in graph.constants.items() if name in used]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "model", graph.inputs, results, constants),
        producer_name="beit",
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    if data is None:  # the check needs the values
        onnx.checker.check_model(model)
    return model


def _used_nodes(nodes: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """The nodes on which the results of a graph depend, in order."""
    needed, used = set(outputs), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            used.append(node)
    return used[::-1]
