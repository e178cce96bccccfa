"""An ONNX graph under construction, and the names that Paddle's values have in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np
import paddle

_ALIGNMENT = 4096  # of weights in a file, so that engines can map them into memory


class Graph:
    """The nodes, inputs and constants of an ONNX graph under construction.

    Args:
        weights: parameters and buffers of the network by Paddle's names.
        data: open file that takes the values of the weights; None to keep them in the graph.
        data_name: name of that file, relative to the graph's.
    """

    def __init__(
        self, weights: dict[str, paddle.Tensor], data: BinaryIO | None = None, data_name: str = ""
    ) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._to_proto = helper, numpy_helper.from_array
        self._weights, self._data, self._data_name = weights, data, data_name
        self._names: dict[Any, str | list[str]] = {}  # of Paddle's values; a list for a list of tensors
        self._arrays: dict[str, np.ndarray] = {}  # small constants, which attributes of later nodes need
        self._known: dict[
            tuple[str, tuple[int, ...], bytes], str
        ] = {}  # type, shape and bytes of a constant -> name
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.constants: dict[str, Any] = {}

    def add(self, operator: Any, translation: Callable[[Graph, Any], Any]) -> None:
        """Add the nodes of one of Paddle's operators."""
        found = translation(self, operator)
        results = operator.results()
        for value, result in zip(results, found if len(results) > 1 else [found], strict=False):
            self._names[value.id] = result

    def rename(self, value: Any, name: str) -> Any:
        """Give a result of the graph its final name; its description for `onnx.helper.make_graph`."""
        self.nodes.append(self._helper.make_node("Identity", [self._names[value.id]], [name]))
        return self._helper.make_tensor_value_info(name, onnx_type(value.dtype), _free(value.shape))

    def input(self, operator: Any) -> str:
        """Add an input of the graph."""
        attributes = operator.attrs()
        value = operator.results()[0]
        name = attributes["name"]
        self.inputs.append(
            self._helper.make_tensor_value_info(name, onnx_type(value.dtype), _free(value.shape))
        )
        return name

    def weight(self, operator: Any) -> str:
        """Add a parameter or buffer of the network."""
        name = operator.attrs()["parameter_name"]
        array = self._weights[name].numpy()
        self.constants[name] = (
            self._to_proto(array, name) if self._data is None else self._external(self._data, array, name)
        )
        return name

    def _external(self, file: BinaryIO, array: np.ndarray, name: str) -> Any:
        """Write an array into the data file, and describe where it is."""
        from onnx import TensorProto

        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        place = {"location": self._data_name, "offset": str(file.tell()), "length": str(array.nbytes)}
        file.write(np.ascontiguousarray(array).data.cast("B"))
        tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = self._helper.np_dtype_to_tensor_dtype(array.dtype)
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        return tensor

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Add a constant array, or take the equal one that is there already."""
        array = np.asarray(values, dtype)
        name = self._known.setdefault(
            (str(array.dtype), array.shape, array.tobytes()), f"constant_{len(self._known)}"
        )
        if name not in self.constants:
            self._arrays[name] = array
            self.constants[name] = self._to_proto(array, name)
        return name

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; the name of its result, or a list of names if it has several."""
        names = [f"{kind}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(self._helper.make_node(kind, inputs, names, names[0], **attributes))
        return names if outputs > 1 else names[0]

    def operand(self, operator: Any, number: int = 0) -> Any:
        """The name of an operand, or the names if it is a list of tensors."""
        return self.name(operator.operands_source()[number])

    def name(self, value: Any) -> Any:
        """The name of one of Paddle's values, or the names if it is a list of tensors."""
        return self._names[value.id]

    def array(self, operator: Any, number: int) -> list[int]:
        """The numbers in an operand that is a constant."""
        return self._arrays[self.operand(operator, number)].ravel().tolist()


def _free(shape: Sequence[int]) -> list[int | str]:
    return ["batch" if size < 0 else size for size in shape]


def onnx_type(dtype: Any) -> int:
    """The number of a type of Paddle in ONNX."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(numpy_type(dtype))))


def numpy_type(dtype: Any) -> str:
    """The NumPy name of `paddle.float32` or of a `DataType.FLOAT32` among the attributes of an operator."""
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2].lower()
