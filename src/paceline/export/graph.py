"""A small builder of ONNX graphs: an operation is a call that returns the name of its output. Needs onnx."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INT64_ENDS = np.iinfo(np.int64)
BATCH = "batch"
"""Name of the dynamic first dimension of every input and output."""


class GraphBuilder:
    """Collects nodes, constants, inputs and outputs, then makes a checked model."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, *columns: int | str) -> str:
        """A float32 input (batch, *columns)."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *columns]))
        return name

    def output(self, value: str, name: str, *columns: int, kind: int = TensorProto.FLOAT) -> None:
        """Give `value` out as `name`, (batch, *columns)."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output.{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, kind, [BATCH, *columns]))

    def constant(self, array: np.ndarray | np.generic | float | int, name: str | None = None) -> str:
        """A constant tensor; floats are float32, integers int64."""
        values = np.asarray(array)
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        label = name or self._name("constant")
        self._constants[label] = numpy_helper.from_array(np.array(values, order="C"), label)
        return label

    def __call__(
        self, kind: str, *inputs: "str | np.ndarray | np.generic | float | int", **attributes: Any
    ) -> str:
        """Add a node of an operator; arrays and numbers among its inputs become constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        label = attributes.pop("label", None) or self._name(kind)
        self._nodes.append(helper.make_node(kind, names, [label], name=label, **attributes))
        return label

    def columns(self, value: str, start: int, end: int | None) -> str:
        """Columns of a matrix from `start` to before `end` (None: the last)."""
        ends = np.array([INT64_ENDS.max if end is None else end])
        return self("Slice", value, np.array([start]), ends, np.array([-1]))

    def cast(self, value: str, kind: int) -> str:
        """`value` in another type."""
        return self("Cast", value, to=kind)

    def model(self, *, opset: int, description: str, metadata: dict[str, str]) -> onnx.ModelProto:
        """The model, checked, with its shapes inferred."""
        graph = helper.make_graph(
            self._nodes, "paceline", self._inputs, self._outputs, list(self._constants.values())
        )
        made = helper.make_model(
            graph,
            producer_name="paceline",
            doc_string=description,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=IR_VERSION,
        )
        helper.set_model_props(made, metadata)
        onnx.checker.check_model(made, full_check=True)
        return made

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}.{self._count}"


IR_VERSION = 8
"""Of the file format: what every ONNX Runtime since 1.10 reads."""
