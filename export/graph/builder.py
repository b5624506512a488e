"""Writing ONNX nodes from Python: ``g("MatMul", a, b)`` adds a node and returns the name of its output.

Values are names (str). Anything else given as an input is a constant and becomes an initializer. A subgraph (the body
of a Loop, the branch of an If) is a builder of its own that shares the initializers and the counter of its parent, so
that names are unique in the whole model and an initializer is stored once wherever it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["BFLOAT16", "BOOL", "FLOAT", "INT32", "INT64", "OPSET", "UINT8", "Builder", "Loop", "value"]

OPSET = 21  # blocked QuantizeLinear; onnxruntime 1.23 to the newest know it
IR_VERSION = 10
CONTRIB = {"FusedMatMul", "MatMulIntegerToFloat", "MultiHeadAttention"}  # of the domain com.microsoft
FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16
INT32, INT64, BOOL, UINT8 = TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8

Input = str | ArrayLike


def value(name: str, dtype: int, shape: list[str | int | None] | None) -> onnx.ValueInfoProto:
    """Declare an input or output.

    :param name: its name.
    :param dtype: a TensorProto type.
    :param shape: sizes, names of dynamic axes, or None for an axis or a rank that is not known.
    :return: the declaration.
    """
    return helper.make_tensor_value_info(name, dtype, shape)


class Builder:
    """Nodes of one graph or subgraph, in order."""

    def __init__(self, parent: Builder | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {} if parent is None else parent.initializers
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = (
            {} if parent is None else parent._constants
        )
        self._counter: list[int] = [0] if parent is None else parent._counter

    def fresh(self, prefix: str) -> str:
        """Make up a name that is not taken.

        :param prefix: what it begins with.
        :return: the name.
        """
        self._counter[0] += 1
        return f"{prefix}_{self._counter[0]}"

    def constant(self, array: ArrayLike, name: str | None = None) -> str:
        """Store an initializer.

        :param array: its value; its dtype is kept.
        :param name: its name, given to one array only; without one, equal constants are stored once, under a name
            made up.
        :return: its name.
        """
        if name in self.initializers:
            return name
        data: NDArray[Any] = np.asarray(array)  # ascontiguousarray alone would turn a scalar into a vector
        key = (str(data.dtype), data.shape, data.tobytes() if name is None else b"")
        if name is None:
            if key in self._constants:
                return self._constants[key]
            name = self._constants[key] = self.fresh("constant")
        self.initializers[name] = numpy_helper.from_array(
            np.ascontiguousarray(data).reshape(data.shape), name
        )
        return name

    def __call__(self, op: str, *inputs: Input, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node.

        :param op: the operator; those in CONTRIB are taken from com.microsoft.
        :param inputs: names of values, "" for an input left out, or constants.
        :param outputs: how many outputs.
        :param attributes: of the operator; those that are None are left out.
        :return: the name of the output, or a list of names if there are several.
        """
        names = [given if isinstance(given, str) else self.constant(given) for given in inputs]
        results = [self.fresh(op) for _ in range(outputs)]
        given = {key: attribute for key, attribute in attributes.items() if attribute is not None}
        domain = "com.microsoft" if op in CONTRIB else ""
        self.nodes.append(helper.make_node(op, names, results, name=results[0], domain=domain, **given))
        return results[0] if outputs == 1 else results

    def slice(self, data: str, start: Input, end: Input, axes: list[int]) -> str:
        """Add a Slice with step 1.

        :param data: what to cut.
        :param start: int64, one an axis.
        :param end: int64, one an axis, exclusive.
        :param axes: which axes.
        :return: the name of the output.
        """
        result: str = self("Slice", data, start, end, np.array(axes))
        return result

    def graph(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """Close a subgraph; its initializers stay with the model.

        :param name: its name.
        :param inputs: declarations of its inputs.
        :param outputs: declarations of its outputs.
        :return: the graph, to be the attribute of a Loop or an If.
        """
        return helper.make_graph(self.nodes, name, inputs, outputs)

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Close the model.

        :param name: name of its graph.
        :param inputs: declarations of its inputs.
        :param outputs: declarations of its outputs.
        :return: the model, its weights inside.
        """
        used = _inputs(self.nodes)
        initializers = [tensor for tensor in self.initializers.values() if tensor.name in used]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="jinabert-runtime"
        )


class Loop:
    """A Loop that runs a given number of times, with the builder of its body."""

    def __init__(self, g: Builder, name: str) -> None:
        """Begin the body.

        :param g: where the Loop is to be written.
        :param name: of what a turn is about.
        """
        self._g, self._name = g, name
        self.body = Builder(g)
        self.index = self.body.fresh(name)  # int64 scalar
        self._running = self.body.fresh("running")

    def close(
        self, trips: str, output: str, shape: list[str | int | None], carried: tuple[str, str] | None = None
    ) -> str:
        """Write the Loop.

        :param trips: int64 scalar, how many times.
        :param output: float32 of a shape known only to be `shape`, made by the body.
        :param shape: of the output.
        :param carried: the first value and the body's input, when the output is what the next turn starts from.
        :return: name of the last turn's output if carried, else of all turns' outputs stacked.
        """
        running = self.body("Identity", self._running)
        inputs = [value(self.index, INT64, []), value(self._running, BOOL, [])]
        if carried:
            inputs.append(value(carried[1], FLOAT, shape))
        outputs = [value(running, BOOL, []), value(output, FLOAT, shape)]
        graph = self.body.graph(self._name + "s", inputs, outputs)
        result: str = self._g("Loop", trips, "", *([carried[0]] if carried else []), body=graph)
        return result


def _inputs(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names of all values that nodes take, those of their subgraphs included."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            names |= _inputs(attribute.g.node)
    return names
