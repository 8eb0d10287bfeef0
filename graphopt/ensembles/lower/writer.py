"""Nodes and constants that are added to a graph, each once, with names, types and shapes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.serialize import attribute_proto
from graphopt.rewrite.constants import add_initializer

Attribute = int | float | str | Sequence[int] | ir.TensorProtocol | ir.Graph

_AXES_AS_INPUT = 18
"""From this opset on ReduceMax and its kin take their axes as an input, as ReduceSum does."""

_Key = tuple[object, ...]


class _Shared:
    """What all writers of one model have in common.

    Names start with a slash, which no member's name can.
    """

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self._counts: Counter[str] = Counter()
        self._constants: dict[_Key, ir.Value] = {}
        self.branches: list[ir.Node] = []

    def fresh(self, base: str) -> str:
        while True:
            self._counts[base] += 1
            number = self._counts[base]
            name = f"/{base}" if number == 1 else f"/{base}_{number}"
            if all(value.name != name for value in self.graph.inputs):
                return name

    def constant(self, content: np.ndarray[Any, Any]) -> ir.Value:
        key = (content.dtype.str, content.shape, content.tobytes())
        if key not in self._constants:
            name = self.fresh("constant")
            tensor = ir.Tensor(content, name=name)
            self._constants[key] = add_initializer(self.graph, name, tensor)
        return self._constants[key]


class Writer:
    """Adds nodes to a graph: the main graph of a model, or a body inside it.

    The same operator on the same values with the same attributes is added once, and not at all
    where a graph around has it. Each output has the type and shape that ONNX infers for it.

    Args:
        graph: The main graph; its nodes are in opset `opset`.
        opset: Of ONNX's own operators, 13 or newer.
    """

    def __init__(self, graph: ir.Graph, opset: int) -> None:
        self.graph = graph
        self._shared = _Shared(graph, opset)
        self._outer: Writer | None = None
        self._known: dict[_Key, tuple[ir.Value, ...]] = {}

    @property
    def opset(self) -> int:
        """The opset that nodes are written in."""
        return self._shared.opset

    @property
    def branches(self) -> list[ir.Node]:
        """The Ifs that were added in all graphs, those inside others first."""
        return self._shared.branches

    def body(self, name: str) -> Writer:
        """Return a writer for a new body that reads what this writer's graph holds."""
        inner = Writer.__new__(Writer)
        inner.graph = ir.Graph([], [], nodes=[], name=self._shared.fresh(name))
        inner._shared = self._shared
        inner._outer = self
        inner._known = {}
        return inner

    def op(
        self,
        op_type: str,
        *inputs: ir.Value,
        like: ir.Value | None = None,
        **attributes: Attribute,
    ) -> ir.Value:
        """Add a node with one output, unless there is one like it.

        Args:
            op_type: Its operator.
            inputs: What it reads.
            like: Has the type and shape of the output; None: they are inferred.
            attributes: By name.
        """
        return self.ops(op_type, *inputs, outputs=1, like=like, **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value,
        outputs: int,
        like: ir.Value | None = None,
        **attributes: Attribute,
    ) -> tuple[ir.Value, ...]:
        """Add a node with so many outputs, unless there is one like it; see `op`."""
        key = (op_type, inputs, outputs, repr(sorted(attributes.items())))
        found = self._find(key)
        if found is None:
            found = self._known[key] = self._add(op_type, inputs, outputs, attributes, like)
        return found

    def branch(
        self, condition: ir.Value, then: Writer, otherwise: Writer, like: Sequence[ir.Value]
    ) -> tuple[ir.Value, ...]:
        """Add an If over two bodies whose outputs are set.

        Args:
            condition: One boolean.
            then: Of the body that runs where it is true.
            otherwise: Of the other one.
            like: Values with the types and shapes of the outputs.
        """
        node = self._node("If", (condition,), len(like))
        for name, body in (("then_branch", then.graph), ("else_branch", otherwise.graph)):
            node.attributes[name] = ir.AttrGraph(name, body)
        for output, model in zip(node.outputs, like, strict=True):
            _resemble(output, model)
        self.graph.append(node)
        self._shared.branches.append(node)
        return tuple(node.outputs)

    def returns(self, values: Sequence[ir.Value]) -> None:
        """Make values the outputs of this writer's body: each through an Identity of its own."""
        for value in values:
            output = self._add("Identity", (value,), 1, {})[0]
            _resemble(output, value)
            self.graph.outputs.append(output)

    def integers(self, *numbers: int) -> ir.Value:
        """Return a constant list of int64."""
        return self._shared.constant(np.asarray(numbers, np.int64))

    def number(self, number: float, dtype: ir.DataType) -> ir.Value:
        """Return a constant of rank 0.

        Raises:
            GraphoptError: The type has no such number: it would become infinite.
        """
        largest = float(dtype.max) if dtype.is_floating_point() else math.inf
        if math.isfinite(number) and abs(number) > largest:
            raise GraphoptError(
                f"the number {number:g} does not fit {dtype.name}, whose largest is {largest:.3g}",
                fix="give a smaller one, or members of a wider type",
            )
        return self.array(np.asarray(number), dtype)

    def array(self, content: np.ndarray[Any, Any], dtype: ir.DataType) -> ir.Value:
        """Return a constant of a type that numpy has."""
        array = content.astype(dtype.numpy())
        # `ascontiguousarray` makes one dimension of none.
        return self._shared.constant(np.ascontiguousarray(array).reshape(array.shape))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return a value in another type; itself where it has that."""
        return value if value.dtype == dtype else self.op("Cast", value, to=int(dtype))

    def reduce(
        self, op_type: str, value: ir.Value, axes: Sequence[int], *, keepdims: bool = False
    ) -> ir.Value:
        """Add ReduceSum, ReduceMax or ReduceMin over some axes."""
        axes = [_from_the_front(value, axis) for axis in axes]
        if op_type == "ReduceSum" or self.opset >= _AXES_AS_INPUT:
            return self.op(op_type, value, self.integers(*axes), keepdims=int(keepdims))
        return self.op(op_type, value, axes=tuple(axes), keepdims=int(keepdims))

    def argmax(self, value: ir.Value, axis: int, *, keepdims: bool = False) -> ir.Value:
        """Add an ArgMax: the first of equal elements; of NaN nothing is said."""
        front = _from_the_front(value, axis)
        return self.op("ArgMax", value, axis=front, keepdims=int(keepdims))

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Add a Reshape; a size of 0 is that of the input, -1 is what is left."""
        return self.op("Reshape", value, self.integers(*shape))

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """Add an Unsqueeze."""
        return self.op("Unsqueeze", value, self.integers(*axes))

    def squeeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """Add a Squeeze."""
        return self.op("Squeeze", value, self.integers(*axes))

    def take(self, value: ir.Value, index: int, axis: int) -> ir.Value:
        """Add a Gather of one position along an axis, which goes."""
        return self.op(
            "Gather", value, self._shared.constant(np.asarray(index, np.int64)), axis=axis
        )

    def gather(self, value: ir.Value, indices: ir.Value, axis: int) -> ir.Value:
        """Add a Gather of positions along an axis."""
        if value.dtype != ir.DataType.STRING:
            return self.op("Gather", value, indices, axis=axis)
        # ONNX Runtime's Gather copies one string of each row, its GatherND copies all.
        order = moved_to_front(axis, rank(value) or 1)
        front = self.transpose(value, order)
        found = self.op("GatherND", front, self.unsqueeze(indices, 1))
        return self.transpose(found, inverse(order))

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """Add a Transpose, unless it moves nothing."""
        if list(order) == sorted(order):
            return value
        return self.op("Transpose", value, perm=tuple(order))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """Return the size of an axis as int64 of rank 0: a constant where it is static."""
        known = sizes(value)
        if known is not None and isinstance(known[axis], int):
            return self._shared.constant(np.asarray(known[axis], np.int64))
        return self.take(self.op("Shape", value), axis, 0)

    def _find(self, key: _Key) -> tuple[ir.Value, ...] | None:
        writer: Writer | None = self
        while writer is not None:
            if key in writer._known:
                return writer._known[key]
            writer = writer._outer
        return None

    def _node(self, op_type: str, inputs: Sequence[ir.Value], outputs: int) -> ir.Node:
        name = self._shared.fresh(op_type)
        names = [name] if outputs == 1 else [f"{name}:{index}" for index in range(outputs)]
        values = [ir.Value(name=output) for output in names]
        return ir.Node("", op_type, inputs, outputs=values, name=name)

    def _add(
        self,
        op_type: str,
        inputs: tuple[ir.Value, ...],
        outputs: int,
        attributes: dict[str, Attribute],
        like: ir.Value | None = None,
    ) -> tuple[ir.Value, ...]:
        node = self._node(op_type, inputs, outputs)
        for name, value in attributes.items():
            node.attributes[name] = ir.convenience.convert_attribute(name, value)
        if like is None:
            _infer(node, self.opset)
        else:
            for output in node.outputs:
                _resemble(output, like)
        self.graph.append(node)
        return tuple(node.outputs)


def moved_to_front(axis: int, rank_: int) -> list[int]:
    """Return the order of axes in which one comes first."""
    return [axis, *(place for place in range(rank_) if place != axis)]


def inverse(order: Sequence[int]) -> list[int]:
    """Return the order that undoes an order of axes."""
    return sorted(range(len(order)), key=lambda place: order[place])


def sizes(value: ir.Value) -> tuple[int | str | None, ...] | None:
    """Return the sizes of a value: numbers, symbols, or None; None: the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def rank(value: ir.Value) -> int | None:
    """Return the number of axes, where it is known."""
    return None if value.shape is None else len(value.shape)


def _resemble(value: ir.Value, model: ir.Value) -> None:
    """Give a value the type and shape of another."""
    value.type = model.type if model.dtype is None else ir.TensorType(model.dtype)
    value.shape = None if model.shape is None else model.shape.copy()


def _from_the_front(value: ir.Value, axis: int) -> int:
    """Count an axis from the front where the rank is known.

    ONNX Runtime takes a negative axis of a tensor without elements for none at all.
    """
    known = rank(value)
    return axis if axis >= 0 or known is None else axis + known


@cache
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema:
    return onnx.defs.get_schema(op_type, opset, "")


def _infer(node: ir.Node, opset: int) -> None:
    """Set the types and shapes of a node's outputs."""
    names = {f"i{index}": value for index, value in enumerate(node.inputs) if value is not None}
    proto = onnx.NodeProto(op_type=node.op_type, input=list(names))
    proto.output.extend(f"o{index}" for index in range(len(node.outputs)))
    proto.attribute.extend(attribute_proto(item) for item in node.attributes.values())
    types = {name: _type_proto(value) for name, value in names.items()}
    data = {
        name: ir.serde.serialize_tensor(value.const_value)
        for name, value in names.items()
        if value.name and value.name.startswith("/constant") and value.const_value is not None
    }
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            _schema(node.op_type, opset),
            proto,
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )
    except onnx.shape_inference.InferenceError as error:
        read = [value for value in node.inputs if value is not None and value.const_value is None]
        listed = ", ".join(f"{value.name} {value.dtype}{value.shape or ''}" for value in read)
        raise GraphoptError(
            f"{node.op_type} of {listed} cannot be: {' '.join(str(error).split())}",
            fix="give members shapes that go together",
        ) from None
    for index, output in enumerate(node.outputs):
        found = inferred[f"o{index}"].tensor_type
        output.type = ir.TensorType(ir.DataType(found.elem_type))
        if found.HasField("shape"):
            output.shape = ir.Shape([_dim(dim) for dim in found.shape.dim])


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    if value.dtype is not None:
        proto.tensor_type.elem_type = int(value.dtype)
    known = sizes(value)
    if known is not None:
        proto.tensor_type.shape.SetInParent()
        for size in known:
            dim = proto.tensor_type.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            elif size is not None:
                dim.dim_param = size
    return proto


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.WhichOneof("value") == "dim_value":
        return int(dim.dim_value)
    return dim.dim_param or None
