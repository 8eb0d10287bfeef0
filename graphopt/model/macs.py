"""Count the multiply-accumulates of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import onnx
import onnx_ir as ir

from graphopt.model.constants import ONNX_DOMAINS
from graphopt.model.mac_rules import Call, Dims, UnknownSizeError, rule
from graphopt.model.proto_graphs import attribute_bodies
from graphopt.model.skeleton import inferred_skeleton

_PASS_THROUGH = frozenset(
    {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Slice"}
)
"""Operators between a DequantizeLinear and the product that a runtime moves or fuses."""

_NARROW_INTEGERS = frozenset(
    onnx.TensorProto.DataType.Value(name)
    for name in ("INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")
)
"""Types that weights are stored in to be small."""

_QUANTIZED = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)

_OPAQUE = frozenset(
    {
        "BeamSearch",
        "DecoderMaskedMultiHeadAttention",
        "FusedMoE",
        "GreedySearch",
        "GroupQueryAttention",
        "LinearAttention",
        "LongformerAttention",
        "MoE",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "PagedAttention",
        "QMoE",
        "QOrderedMatMul",
        "SparseAttention",
    }
)
"""Operators of ONNX and of com.microsoft that multiply and that no rule here counts."""

_KNOWN_DOMAINS = frozenset(
    {*ONNX_DOMAINS, "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training"}
)


_SHOWN_REASONS = 8
_LONGEST_CHAIN = 16
"""Between a DequantizeLinear and its product; a file could hold a cycle."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one run, at batch 1 where the batch is dynamic.

    Convolutions, matrix products, recurrent layers, attention and linear models are counted;
    additions of a bias and elementwise work are not. A body of If counts as its costlier branch,
    a Loop or Scan as its body times its constant trip count, a function at each of its calls.

    Args:
        known: What could be counted.
        quantized: The part of `known` on quantized weights: integer operators, and operators
            whose second operand comes from DequantizeLinear, or is the product of stored integers
            that were cast.
        unknown: What could not be counted, and why; then `total` is None.
    """

    known: int
    quantized: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int | None:
        """The multiply-accumulates of the model, or None if a part of it is unknown."""
        return None if self.unknown else self.known


def count_macs(model: ir.Model, dims: Mapping[str, int] | None = None) -> Macs:
    """Count the multiply-accumulates of a model.

    Shapes come from the model and from ONNX's shape inference; weights are not read.

    Args:
        model: Any model; stays as it is.
        dims: Sizes of dynamic dimensions of inputs, by symbol or as `input[axis]`.
    """
    try:
        proto = inferred_skeleton(model, dims)
    except ValueError as error:
        # The first line says where the model is inconsistent.
        reason = (str(error).splitlines() or ["no reason given"])[0]
        return Macs(0, 0, (f"shape inference refused the model: {reason[:200]}",))
    return count_macs_of(proto)


def count_macs_of(proto: onnx.ModelProto) -> Macs:
    """Count the multiply-accumulates of a skeleton: see `skeleton.inferred_skeleton`."""
    walk = _Walk()
    count = walk.graph(proto.graph, None, "")
    return Macs(count.known, count.quantized, walk.reasons())


@dataclass(frozen=True)
class _Names:
    """What is known about the values of a graph, those of outer graphs included."""

    shapes: dict[str, Dims]
    producers: dict[str, onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]

    @classmethod
    def of(cls, graph: onnx.GraphProto, outer: _Names | None) -> _Names:
        names = (
            cls(dict(outer.shapes), dict(outer.producers), dict(outer.constants))
            if outer
            else cls({}, {}, {})
        )
        for value in (*graph.value_info, *graph.output, *graph.input):
            if value.type.tensor_type.HasField("shape"):
                names.shapes[value.name] = _dims(value.type.tensor_type.shape)
        for tensor in graph.initializer:
            names.shapes[tensor.name] = tuple(tensor.dims)
            names.constants[tensor.name] = tensor
        for node in graph.node:
            names.producers.update((output, node) for output in node.output if output)
            if node.op_type == "Constant" and node.output:
                names.constants.update(
                    (node.output[0], a.t) for a in node.attribute if a.name == "value"
                )
        return names


def _dims(shape: onnx.TensorShapeProto) -> Dims:
    # Some exporters write a dynamic dimension as -1.
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
        for dim in shape.dim
    )


class _Count(NamedTuple):
    known: int
    quantized: int

    def times(self, factor: int) -> _Count:
        return _Count(self.known * factor, self.quantized * factor)


class _Walk:
    """Adds up a graph and its bodies, and collects what could not be counted."""

    def __init__(self) -> None:
        self._unknown: list[str] = []

    def reasons(self) -> tuple[str, ...]:
        shown = self._unknown[:_SHOWN_REASONS]
        hidden = len(self._unknown) - len(shown)
        return (*shown, f"and {hidden} more") if hidden else tuple(shown)

    def graph(self, graph: onnx.GraphProto, outer: _Names | None, path: str) -> _Count:
        names = _Names.of(graph, outer)
        known = quantized = 0
        for position, node in enumerate(graph.node):
            at = path + (node.name or f"{node.op_type}_{position}")
            try:
                count = self._node(node, names, at)
            except (UnknownSizeError, IndexError, ValueError) as error:
                # The last two: ranks that do not fit the operator, in a model nobody checked.
                self._unknown.append(f"{at} ({node.op_type}): {error}")
                continue
            known += count.known
            quantized += count.quantized
        return _Count(known, quantized)

    def _node(self, node: onnx.NodeProto, names: _Names, at: str) -> _Count:
        bodies = [
            self.graph(body, names, f"{at}/{attribute.name}/")
            for attribute in node.attribute
            for body in attribute_bodies(attribute)
        ]
        if bodies:
            return self._control_flow(node, names, at, bodies)
        if node.domain not in _KNOWN_DOMAINS or node.op_type in _OPAQUE:
            raise UnknownSizeError(f"no rule for {node.domain}::{node.op_type}")
        counted = rule(node.domain, node.op_type)
        if counted is None:
            return _Count(0, 0)
        macs = counted(Call(node, names.shapes))
        return _Count(macs, macs if _is_quantized(node, names) else 0)

    def _control_flow(
        self, node: onnx.NodeProto, names: _Names, at: str, bodies: list[_Count]
    ) -> _Count:
        if node.op_type == "If":
            return max(bodies)
        body = _Count(sum(b.known for b in bodies), sum(b.quantized for b in bodies))
        if body.known == 0:
            return body
        turns = _turns(node, names)
        if turns is None:
            self._unknown.append(f"{at} ({node.op_type}): how often the body runs is not constant")
            return body
        return body.times(turns)


def _turns(node: onnx.NodeProto, names: _Names) -> int | None:
    """Return how often a body runs, where the model says so."""
    if node.op_type == "Loop" and node.input and node.input[0] in names.constants:
        trips = names.constants[node.input[0]]
        if trips.data_location != onnx.TensorProto.EXTERNAL:
            return max(0, int(onnx.numpy_helper.to_array(trips).reshape(-1)[0]))
    if node.op_type == "Scan":
        call = Call(node, names.shapes)
        scanned = call.integer("num_scan_inputs")
        axes = call.attribute("scan_input_axes")
        axis = axes[0] if isinstance(axes, list) and axes else 0
        return call.operand(len(node.input) - scanned)[axis]
    return None


def _is_quantized(node: onnx.NodeProto, names: _Names) -> bool:
    if node.op_type in _QUANTIZED:
        return True
    if len(node.input) < 2:
        return False
    producer = names.producers.get(node.input[1])
    seen = 0
    while producer is not None and producer.op_type in _PASS_THROUGH and producer.input:
        producer = names.producers.get(producer.input[0])
        seen += 1
        if seen > _LONGEST_CHAIN:
            return False
    if producer is None:
        return False
    return producer.op_type == "DequantizeLinear" or _scales_integers(producer, names)


def _scales_integers(node: onnx.NodeProto, names: _Names) -> bool:
    """Whether a node is Mul(Cast(stored integers), scale), with a Sub between or not."""
    if node.op_type != "Mul":
        return False
    for operand in node.input:
        producer = names.producers.get(operand)
        if producer is not None and producer.op_type == "Sub" and producer.input:
            producer = names.producers.get(producer.input[0])
        if producer is not None and producer.op_type == "Cast" and producer.input:
            tensor = names.constants.get(producer.input[0])
            if tensor is not None and tensor.data_type in _NARROW_INTEGERS:
                return True
    return False
