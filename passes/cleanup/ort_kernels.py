"""Constant nodes evaluated by ONNX Runtime's own CPU kernels, many in one session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from graphopt.model.serialize import attribute_proto
from graphopt.rewrite.constants import Array
from passes.cleanup.kernel_call import PLAIN_TYPES


@dataclass(frozen=True)
class Batch:
    """Nodes to evaluate together.

    Args:
        nodes: In topological order.
        known: Arrays of all values that the nodes read from outside.
        wanted: The values to compute.
        opsets: Operator sets that the nodes are written in.
    """

    nodes: Sequence[ir.Node]
    known: Mapping[ir.Value, Array]
    wanted: Sequence[ir.Value]
    opsets: Mapping[str, int]


def evaluate(batch: Batch) -> dict[ir.Value, Array]:
    """Compute the wanted values; those that ONNX Runtime cannot compute are missing.

    One node that fails must not cost the others: then the batch is cut in two.
    """
    if not batch.nodes:
        return {}
    results = _run(batch)
    if results is not None:
        return results
    if len(batch.nodes) == 1:
        return {}
    middle = len(batch.nodes) // 2
    head, tail = batch.nodes[:middle], batch.nodes[middle:]
    read_later = {value for node in tail for value in node.inputs if value is not None}
    wanted = set(batch.wanted)
    made_first = [value for node in head for value in node.outputs]
    first = evaluate(
        Batch(
            head,
            batch.known,
            [value for value in made_first if value in wanted or value in read_later],
            batch.opsets,
        )
    )
    known = {**batch.known, **first}
    runnable, produced = _runnable(tail, known)
    second = evaluate(
        Batch(runnable, known, [value for value in produced if value in wanted], batch.opsets)
    )
    return {value: array for value, array in {**first, **second}.items() if value in wanted}


def _runnable(
    nodes: Sequence[ir.Node], known: Mapping[ir.Value, Array]
) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the nodes whose inputs are still to be had, and what they compute."""
    available = set(known)
    kept: list[ir.Node] = []
    produced: list[ir.Value] = []
    for node in nodes:
        if all(value is None or value in available for value in node.inputs):
            kept.append(node)
            available.update(node.outputs)
            produced.extend(node.outputs)
    return kept, produced


def _run(batch: Batch) -> dict[ir.Value, Array] | None:
    import onnxruntime as ort  # loading it costs more than most folds
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    proto, fed, names = _proto(batch)
    wanted = [value for value in batch.wanted if value in names]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        arrays = session.run([names[value] for value in wanted], fed)
    except (
        states.Fail,
        states.InvalidArgument,
        states.InvalidGraph,
        states.NotImplemented,
        states.RuntimeException,
    ):
        return None
    return dict(zip(wanted, arrays, strict=True))


def _proto(batch: Batch) -> tuple[onnx.ModelProto, dict[str, Array], dict[ir.Value, str]]:
    names: dict[ir.Value, str] = {}
    proto = onnx.ModelProto(ir_version=8)
    for domain, version in batch.opsets.items():
        proto.opset_import.add(domain=domain, version=version)
    graph = proto.graph
    graph.name = "constants"
    fed: dict[str, Array] = {}
    for value in _outside(batch.nodes):
        array = batch.known[value]
        names[value] = f"v{len(names)}"
        fed[names[value]] = array
        dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(
            onnx.helper.make_tensor_value_info(names[value], dtype, list(array.shape))
        )
    for node in batch.nodes:
        for value in node.outputs:
            names[value] = f"v{len(names)}"
        added = graph.node.add(op_type=node.op_type, domain=node.domain)
        added.input.extend("" if value is None else names[value] for value in node.inputs)
        added.output.extend(names[value] if value.name else "" for value in node.outputs)
        for attribute in node.attributes.values():
            added.attribute.append(attribute_proto(attribute))
    for value in batch.wanted:
        graph.output.add(name=names[value])
    return proto, fed, names


def _outside(nodes: Sequence[ir.Node]) -> Iterator[ir.Value]:
    seen: set[ir.Value] = set()
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in seen:
                seen.add(value)
                yield value
        seen.update(node.outputs)


def is_supported(dtype: ir.DataType | None) -> bool:
    """Whether tensors of a type can be handed to ONNX Runtime from NumPy."""
    return dtype in PLAIN_TYPES
