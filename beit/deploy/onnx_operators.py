"""Paddle's operators in ONNX: one function per operator adds its nodes and returns the name of its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from beit.deploy.onnx_builder import Graph, numpy_type, onnx_type

_Translation = Callable[[Graph, Any], Any]


def _same(kind: str, operands: int = 1, *attributes: str) -> _Translation:
    """An operator that ONNX has with the same operands and names of attributes."""

    def translate(graph: Graph, op: Any) -> Any:
        given = op.attrs()
        inputs = [graph.operand(op, number) for number in range(operands)]
        return graph.node(kind, inputs, **{name: given[name] for name in attributes})

    return translate


def _full(graph: Graph, op: Any) -> str:
    given = op.attrs()
    return graph.constant(np.full(given["shape"], given["value"]), numpy_type(given["dtype"]))


def _full_int_array(graph: Graph, op: Any) -> str:
    return graph.constant(op.attrs()["value"])


def _assigned(graph: Graph, op: Any) -> str:
    given = op.attrs()
    return graph.constant(np.reshape(given["values"], given["shape"]), numpy_type(given["dtype"]))


def _combine(graph: Graph, op: Any) -> list[str]:
    return [graph.operand(op, number) for number in range(len(op.operands_source()))]


def _split(graph: Graph, op: Any) -> Any:
    names = graph.operand(op)
    return names if len(names) > 1 else names[0]


def _unbind(graph: Graph, op: Any) -> list[str]:
    axis = op.attrs()["axis"]
    count = op.operands_source()[0].shape[axis]
    return [
        graph.node("Gather", [graph.operand(op), graph.constant(number)], axis=axis)
        for number in range(count)
    ]


def _stack(graph: Graph, op: Any) -> str:
    axis = op.attrs()["axis"]
    parts = [graph.node("Unsqueeze", [name, graph.constant([axis])]) for name in graph.operand(op)]
    return graph.node("Concat", parts, axis=axis)


def _concat(graph: Graph, op: Any) -> str:
    return graph.node("Concat", graph.operand(op), axis=graph.array(op, 1)[0])


def _cast(graph: Graph, op: Any) -> str:
    return graph.node("Cast", [graph.operand(op)], to=onnx_type(op.results()[0].dtype))


def _scale(graph: Graph, op: Any) -> str:
    given, x = op.attrs(), graph.operand(op)
    dtype = numpy_type(op.results()[0].dtype)
    bias = [graph.constant(given["bias"], dtype)] if given["bias"] else []
    if bias and not given["bias_after_scale"]:
        return graph.node("Mul", [graph.node("Add", [x, *bias]), graph.operand(op, 1)])
    scaled = graph.node("Mul", [x, graph.operand(op, 1)])
    return graph.node("Add", [scaled, *bias]) if bias else scaled


def _matmul(graph: Graph, op: Any) -> str:
    given, inputs = op.attrs(), []
    for number, name in enumerate(("transpose_x", "transpose_y")):
        operand = graph.operand(op, number)
        if given[name]:
            axes = list(range(len(op.operands_source()[number].shape)))
            operand = graph.node("Transpose", [operand], perm=[*axes[:-2], axes[-1], axes[-2]])
        inputs.append(operand)
    return graph.node("MatMul", inputs)


def _flatten(graph: Graph, op: Any) -> str:
    given, shape = op.attrs(), op.operands_source()[0].shape
    start, stop = given["start_axis"], given["stop_axis"]
    # 0 keeps the size of an axis; it stands in front of the joined axes only, where axes keep their numbers.
    sizes = [0] * start + [-1] + list(shape[stop + 1 :])
    return graph.node("Reshape", [graph.operand(op), graph.constant(sizes)])


def _expand(graph: Graph, op: Any) -> str:
    # -1 keeps the length of an axis in Paddle, 1 does in ONNX.
    shape = graph.node("Max", [graph.operand(op, 1), graph.constant([1])])
    return graph.node("Expand", [graph.operand(op), shape])


def _expand_as(graph: Graph, op: Any) -> str:
    # Addition repeats the smaller operand by itself, and engines fuse it with the attention then.
    if all(user.name() == "pd_op.add" for user in op.results()[0].all_used_ops()):
        return graph.operand(op)
    return graph.node("Expand", [graph.operand(op), graph.node("Shape", [graph.operand(op, 1)])])


def _slice(graph: Graph, op: Any) -> str:
    given = op.attrs()
    inputs = [graph.operand(op, number) for number in range(3)]
    part = graph.node("Slice", [*inputs, graph.constant(given["axes"])])
    dropped = given["decrease_axis"]
    return graph.node("Squeeze", [part, graph.constant(dropped)]) if dropped else part


def _embedding(graph: Graph, op: Any) -> str:
    return graph.node("Gather", [graph.operand(op, 1), graph.operand(op)], axis=0)


def _reshape(graph: Graph, op: Any) -> str:
    operands = _bias_operands(op)
    if operands is None:
        return graph.node("Reshape", [graph.operand(op), graph.operand(op, 1)])
    # Engines compute a position bias once, when they load the graph, and hold the result of each step on the way. So only
    # the last step may have a large result.
    table, index = (graph.name(value) for value in operands)
    columns = graph.node("Transpose", [table], perm=[1, 0])  # [H, T]
    rows = graph.node("Unsqueeze", [columns, graph.constant([0])])  # [1, H, T]
    return graph.node("Gather", [rows, index], axis=2)  # [1, H, N, N]


def _bias_operands(op: Any) -> tuple[Any, Any] | None:
    """Table and index of a relative position bias if this is the last step of `gather_bias`."""
    steps = [op]
    for name in ("pd_op.transpose", "pd_op.embedding", "pd_op.flatten"):
        source = steps[-1].operands_source()[0].get_defining_op()
        if source is None or source.name() != name:
            return None
        steps.append(source)
    table, index = steps[2].operands_source()[1], steps[3].operands_source()[0]
    is_bias = op.results()[0].shape == [1, table.shape[1], *index.shape]
    return (table, index) if is_bias else None


def _layer_norm(graph: Graph, op: Any) -> list[str]:
    given = op.attrs()
    inputs = [graph.operand(op, number) for number in range(3)]
    return [graph.node("LayerNormalization", inputs, axis=given["begin_norm_axis"], epsilon=given["epsilon"])]


def _batch_norm(graph: Graph, op: Any) -> list[str]:
    x, mean, variance, scale, bias = (graph.operand(op, number) for number in range(5))
    return [graph.node("BatchNormalization", [x, scale, bias, mean, variance], epsilon=op.attrs()["epsilon"])]


def _gelu(graph: Graph, op: Any) -> str:
    if op.attrs()["approximate"]:
        raise ValueError(
            "the graph has GELU in its tanh form, which beit.deploy.onnx_operators does not translate"
        )
    x = graph.operand(op)
    half, one, root = (graph.constant(value, np.float32) for value in (0.5, 1.0, 2**0.5))
    error = graph.node("Erf", [graph.node("Div", [x, root])])
    return graph.node("Mul", [graph.node("Mul", [x, graph.node("Add", [error, one])]), half])


def _reduce(kind: str) -> _Translation:
    def translate(graph: Graph, op: Any) -> str:
        axes, keep = graph.array(op, 1), int(op.attrs()["keepdim"])
        if kind == "ReduceSum":  # its axes became an operand before those of the others did
            return graph.node(kind, [graph.operand(op), graph.constant(axes)], keepdims=keep)
        return graph.node(kind, [graph.operand(op)], axes=axes, keepdims=keep)

    return translate


def _norm(graph: Graph, op: Any) -> str:
    given = op.attrs()
    if given["porder"] != 2.0 or given["asvector"]:
        raise ValueError("the graph has a norm other than the Euclidean one of an axis")
    return graph.node("ReduceL2", [graph.operand(op)], axes=[given["axis"]], keepdims=int(given["keepdim"]))


def _topk(graph: Graph, op: Any) -> list[str]:
    given, count = op.attrs(), graph.constant(graph.array(op, 1))
    flags = {name: int(given[name]) for name in ("largest", "sorted")}
    return graph.node("TopK", [graph.operand(op), count], 2, axis=given["axis"], **flags)


def _argmax(graph: Graph, op: Any) -> str:
    given = op.attrs()
    if given["flatten"]:
        raise ValueError("the graph has an argmax over all axes")
    return graph.node(
        "ArgMax", [graph.operand(op)], axis=graph.array(op, 1)[0], keepdims=int(given["keepdims"])
    )


def _window(op: Any) -> dict[str, Any]:
    """Strides, padding and dilation of a convolution or pool."""
    given = op.attrs()
    if given["padding_algorithm"] != "EXPLICIT" or len(given["paddings"]) != 2:
        raise ValueError(f"the graph has a {op.name()} with padding {given['paddings']}")
    return {"strides": given["strides"], "pads": [*given["paddings"]] * 2}


def _convolution(kind: str) -> _Translation:
    def translate(graph: Graph, op: Any) -> str:
        given, inputs = op.attrs(), [graph.operand(op), graph.operand(op, 1)]
        extra = {"dilations": given["dilations"], "group": given["groups"]}
        return graph.node(kind, inputs, **_window(op), **extra)

    return translate


def _pool(graph: Graph, op: Any) -> str:
    given = op.attrs()
    if given["pooling_type"] != "max" or given["adaptive"] or given["global_pooling"] or given["ceil_mode"]:
        raise ValueError("the graph has a pool other than a maximum of fixed windows")
    return graph.node("MaxPool", [graph.operand(op)], kernel_shape=graph.array(op, 1), **_window(op))


def _bilinear(graph: Graph, op: Any) -> str:
    given, x = op.attrs(), graph.operand(op)
    if given["align_corners"] or given["align_mode"] or given["out_h"] <= 0:
        raise ValueError(
            "the graph has a bilinear resizing other than to a fixed size with half-pixel centers"
        )
    kept = graph.node("Slice", [graph.node("Shape", [x]), graph.constant([0]), graph.constant([2])])
    sizes = graph.node("Concat", [kept, graph.constant([given["out_h"], given["out_w"]])], axis=0)
    return graph.node(
        "Resize", [x, "", "", sizes], mode="linear", coordinate_transformation_mode="half_pixel"
    )


OPERATORS: dict[str, _Translation] = {
    "builtin.parameter": Graph.weight,
    "builtin.combine": _combine,
    "builtin.split": _split,
    "pd_op.data": Graph.input,
    "pd_op.full": _full,
    "pd_op.full_int_array": _full_int_array,
    "pd_op.assign_value_": _assigned,
    "pd_op.shape64": _same("Shape"),
    "pd_op.add": _same("Add", 2),
    "pd_op.subtract": _same("Sub", 2),
    "pd_op.multiply": _same("Mul", 2),
    "pd_op.divide": _same("Div", 2),
    "pd_op.maximum": _same("Max", 2),
    "pd_op.relu": _same("Relu"),
    "pd_op.tanh": _same("Tanh"),
    "pd_op.sigmoid": _same("Sigmoid"),
    "pd_op.softmax": _same("Softmax", 1, "axis"),
    "pd_op.transpose": _same("Transpose", 1, "perm"),
    "pd_op.reshape": _reshape,
    "pd_op.mean": _reduce("ReduceMean"),
    "pd_op.sum": _reduce("ReduceSum"),
    "pd_op.p_norm": _norm,
    "pd_op.unbind": _unbind,
    "pd_op.stack": _stack,
    "pd_op.concat": _concat,
    "pd_op.cast": _cast,
    "pd_op.scale": _scale,
    "pd_op.matmul": _matmul,
    "pd_op.flatten": _flatten,
    "pd_op.expand": _expand,
    "pd_op.expand_as": _expand_as,
    "pd_op.slice": _slice,
    "pd_op.embedding": _embedding,
    "pd_op.layer_norm": _layer_norm,
    "pd_op.batch_norm_": _batch_norm,
    "pd_op.gelu": _gelu,
    "pd_op.topk": _topk,
    "pd_op.argmax": _argmax,
    "pd_op.conv2d": _convolution("Conv"),
    "pd_op.conv2d_transpose": _convolution("ConvTranspose"),
    "pd_op.pool2d": _pool,
    "pd_op.bilinear_interp": _bilinear,
}
"""Name of one of Paddle's operators -> function that adds its nodes."""
