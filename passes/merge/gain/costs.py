"""What a model costs, counted and not timed: nodes, products, multiply-accumulates, bytes.

Counting takes milliseconds where timing takes seconds. It settles what is clear: an edit after
which everything costs as much or more cannot gain, and one after which only some of the work is
left, piece by piece the same as before, cannot lose. The rest is for the clock.
"""

from __future__ import annotations

import enum
import math
from collections import ChainMap, Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

import onnx
import onnx_ir as ir

from graphopt.model.mac_rules import rule
from graphopt.model.macs import count_macs_of
from graphopt.model.proto_graphs import proto_graphs
from graphopt.model.skeleton import inferred_skeleton
from graphopt.rewrite.constants import nbytes

Work = Counter[tuple[object, ...]]
"""How often each kind of node occurs: its operator, settings, and the types of what it reads."""


class Outlook(enum.Enum):
    """What costs alone say of an edit."""

    HOPELESS = "hopeless"
    """Nothing gets cheaper."""

    OBVIOUS = "obvious"
    """What is left is some of what was there."""

    DOUBTFUL = "doubtful"
    """Some costs fall, and others may rise: only the clock knows what counts."""


@dataclass(frozen=True)
class Costs:
    """What one run of a model costs.

    Args:
        nodes: That run, in the main graph and its bodies, functions inlined; constants left out.
        products: Those of them that multiply and add: matrix products, convolutions, recurrences.
        macs: Multiply-accumulates; None where they are not all known.
        weight_bytes: Of constants.
        tensor_bytes: Of what nodes write; None where a shape is not known.
        work: The nodes by kind; None where inference failed or a shape is not known.
    """

    nodes: int
    products: int
    macs: int | None
    weight_bytes: int
    tensor_bytes: int | None
    work: Work | None = None

    def described(self, before: Costs) -> dict[str, int | None]:
        """Both sides of each cost, by name, for a report."""
        return {
            f"{name}_{side}": getattr(costs, name)
            for name in _NUMBERS
            for side, costs in (("before", before), ("after", self))
        }


def costs(model: ir.Model, dims: Mapping[str, int] | None = None) -> Costs:
    """Count what one run of a model costs.

    Args:
        model: Stays as it is; its weights are not read.
        dims: Sizes of dynamic dimensions of inputs, as `inferred_skeleton` takes them.
    """
    weights = sum(
        nbytes(value.const_value)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )
    try:
        proto = inferred_skeleton(model, dims)
    except ValueError:
        nodes = [node for node in model.graph.all_nodes() if node.op_type != "Constant"]
        products = sum(rule(node.domain, node.op_type) is not None for node in nodes)
        return Costs(len(nodes), products, None, weights, None)
    return _counted(proto, weights)


def outlook(before: Costs, after: Costs) -> Outlook:
    """Say what costs tell of an edit, before anything is timed."""
    changes = [(getattr(before, name), getattr(after, name)) for name in _NUMBERS]
    known = [(was, now) for was, now in changes if was is not None and now is not None]
    if len(known) == len(changes) and all(now >= was for was, now in known):
        return Outlook.HOPELESS
    if before.work is None or after.work is None or any(now > was for was, now in known):
        return Outlook.DOUBTFUL
    return Outlook.OBVIOUS if after.work < before.work else Outlook.DOUBTFUL


def _counted(proto: onnx.ModelProto, weights: int) -> Costs:
    nodes, products, written, known = 0, 0, 0, True
    work: Work = Counter()
    types: dict[str, tuple[int, tuple[int | None, ...]]] = {}
    for graph in proto_graphs(proto.graph):
        types.update(_types(graph))
    for graph in proto_graphs(proto.graph):
        # Bodies beside each other may use one name for different values.
        seen = ChainMap(_types(graph), types)
        for node in graph.node:
            if node.op_type == "Constant":
                continue
            nodes += 1
            products += rule(node.domain, node.op_type) is not None
            work[_kind(node, seen)] += 1
            for name in filter(None, node.output):
                size = _bytes(seen.get(name))
                known = known and size is not None
                written += size or 0
    tensors = written if known else None
    macs = count_macs_of(proto).total
    return Costs(nodes, products, macs, weights, tensors, work if known else None)


def _types(graph: onnx.GraphProto) -> dict[str, tuple[int, tuple[int | None, ...]]]:
    found = {}
    for value in (*graph.value_info, *graph.output, *graph.input):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            sizes = tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
                for dim in tensor.shape.dim
            )
            found[value.name] = (tensor.elem_type, sizes)
    found.update((item.name, (item.data_type, tuple(item.dims))) for item in graph.initializer)
    return found


def _kind(
    node: onnx.NodeProto, types: Mapping[str, tuple[int, tuple[int | None, ...]]]
) -> tuple[object, ...]:
    settings = tuple(
        sorted(
            attribute.SerializeToString(deterministic=True)
            for attribute in node.attribute
            # Bodies count node by node.
            if attribute.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        )
    )
    operands = tuple(types.get(name, name == "") for name in node.input)
    return (node.domain, node.op_type, settings, operands)


def _bytes(known: tuple[int, tuple[int | None, ...]] | None) -> int | None:
    if known is None:
        return None
    element, sizes = known
    if element == onnx.TensorProto.UNDEFINED or any(size is None for size in sizes):
        return None
    count = math.prod(size for size in sizes if size is not None)
    return math.ceil(count * ir.DataType(element).itemsize)


_NUMBERS = tuple(field.name for field in fields(Costs) if field.name != "work")
