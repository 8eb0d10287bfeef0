"""What a model is made of, in numbers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.model.constants import ONNX_DOMAINS, held_tensor
from graphopt.model.declared_shapes import Dims, dims_of
from graphopt.model.macs import Macs, count_macs
from graphopt.model.scopes import scopes
from graphopt.model.source_paths import source_paths
from graphopt.model.stored_integers import scaled_integers
from graphopt.model.streaming import zeros

_LARGEST = 10

_QUANTIZED_OPERANDS = {
    "DequantizeLinear": ((0, 2),),
    "ConvInteger": ((1, 3),),
    "MatMulInteger": ((0, 2), (1, 3)),
    "QLinearConv": ((3, 5),),
    "QLinearMatMul": ((0, 2), (3, 5)),
}
"""Operators that read quantized elements: which input, and which input is its zero point."""


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Args:
        name: Its name.
        type: The element type in ONNX's spelling (`FLOAT`), or a longer type for no tensor.
        shape: One entry per dimension: its size, its symbol, or None; None if the rank is unknown.
    """

    name: str
    type: str
    shape: Dims | None


@dataclass(frozen=True)
class Weight:
    """A weight of a model.

    Args:
        name: The value that carries it, `scope/name` inside a body or function.
        shape: Elements per dimension.
        dtype: The element type in ONNX's spelling.
        size: Bytes.
        sparsity: Share of its elements that are zero; None where nobody counted.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    sparsity: float | None


@dataclass(frozen=True)
class Facts:
    """What a model is made of.

    Args:
        nodes: Nodes of all scopes, each function counted once; Constants are counted apart.
        constants: Constant nodes.
        parameters: Elements of all numeric initializers and Constants; a shared one counts once.
        size: Their bytes.
        macs: Multiply-accumulates of one run, at batch 1 where the batch is dynamic; None when
            a part is not known (`macs_unknown` says why) or nobody counted.
        macs_known: The part of them that is known.
        macs_unknown: What could not be counted, and why.
        sparsity: Share of zeros in the weights of two and more dimensions that are floats or
            quantized (where the zero point stands for zero); None if there are none.
        quantized: Share of the known multiply-accumulates on quantized weights.
        opsets: Version by domain; the default domain is `ai.onnx`.
        ops: Nodes by `domain::operator`, those of the default domain by operator; Constants too.
        inputs: What a user feeds.
        outputs: What a user gets.
        subgraphs: Bodies of If, Loop, Scan and the like.
        functions: The functions that the model defines, as `domain::name`.
        largest: Its largest weights, the largest first.
        producer: Name and version of what wrote the model.
        ir_version: The version of the file format.
        recipe: What graphopt noted about how the model was made.
        warnings: What an owner of the model would want to know, one sentence each.
    """

    nodes: int
    constants: int
    parameters: int
    size: int
    macs: int | None
    macs_known: int
    macs_unknown: tuple[str, ...]
    sparsity: float | None
    quantized: float | None
    opsets: Mapping[str, int]
    ops: Mapping[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    subgraphs: int
    functions: tuple[str, ...]
    largest: tuple[Weight, ...]
    producer: str
    ir_version: int
    recipe: Mapping[str, str]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return all of it as dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)


def measure(
    model: ir.Model,
    *,
    sparsity: bool = True,
    macs: bool = True,
    dims: Mapping[str, int] | None = None,
) -> Facts:
    """Measure a model. Weights are read in pieces, and only once as long as nobody replaces them.

    Args:
        model: Any model; stays as it is.
        sparsity: Whether to count zeros, which reads every weight.
        macs: Whether to count multiply-accumulates, which infers shapes.
        dims: Sizes of dynamic dimensions of inputs, by symbol or as `input[axis]`, for the
            multiply-accumulates.
    """
    ops = Counter(_operator(node) for scope in scopes(model) for node in scope.graph)
    constants = ops["Constant"]
    weights = list(_weights(model))
    counted = count_macs(model, dims) if macs else Macs(0, 0, ())
    return Facts(
        nodes=ops.total() - constants,
        constants=constants,
        parameters=sum(weight.tensor.size for weight in weights),
        size=sum(weight.tensor.nbytes for weight in weights),
        macs=counted.total if macs else None,
        macs_known=counted.known,
        macs_unknown=counted.unknown,
        sparsity=_sparsity(weights) if sparsity else None,
        quantized=counted.quantized / counted.known if counted.known else None,
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        ops=dict(sorted(ops.items(), key=lambda item: (-item[1], item[0]))),
        inputs=tuple(_port(value) for value in model.graph.inputs if not value.is_initializer()),
        outputs=tuple(_port(value) for value in model.graph.outputs),
        subgraphs=sum(scope.owner is not None for scope in scopes(model)),
        functions=tuple(_function_name(function) for function in model.functions.values()),
        largest=_largest(weights, sparsity),
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        ir_version=model.ir_version,
        recipe={
            key: text for key, text in model.metadata_props.items() if key.startswith("graphopt.")
        },
        warnings=_warnings(model),
    )


@dataclass(frozen=True)
class _Weight:
    at: str
    tensor: ir.TensorProtocol
    zero_point: int | None
    """What stands for zero; None where that differs between channels."""
    matters: bool
    """Whether zeros in it save anything: a bias or a shape saves nothing."""

    def sparsity(self) -> float | None:
        if self.zero_point is None or self.tensor.size == 0:
            return None
        return zeros(self.tensor, self.zero_point) / self.tensor.size


def _weights(model: ir.Model) -> Iterator[_Weight]:
    """Yield every numeric tensor of a model once, however many values share it."""
    zero_points = dict(_zero_points(model))
    seen: set[int] = set()
    for at, value, tensor in _tensors(model):
        if tensor.dtype == ir.DataType.STRING or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        quantized = value in zero_points
        matters = len(tensor.shape) > 1 and (tensor.dtype.is_floating_point() or quantized)
        yield _Weight(at, tensor, zero_points.get(value, 0), matters)


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.Value, ir.TensorProtocol]]:
    for scope in scopes(model):
        for name, value in scope.graph.initializers.items():
            if value.const_value is not None:
                yield scope.at(name), value, value.const_value
        for node in scope.graph:
            tensor = held_tensor(node)
            if tensor is not None and node.outputs:
                yield scope.at(node.outputs[0].name), node.outputs[0], tensor


def _zero_points(model: ir.Model) -> Iterator[tuple[ir.Value, int | None]]:
    for scope in scopes(model):
        for node in scope.graph:
            written_out = scaled_integers(node)
            if written_out is not None:
                yield written_out[0], _zero_point(written_out[1])
            for operand, point in _QUANTIZED_OPERANDS.get(node.op_type, ()):
                value = node.inputs[operand] if operand < len(node.inputs) else None
                if value is not None:
                    yield (
                        value,
                        _zero_point(node.inputs[point] if point < len(node.inputs) else None),
                    )


def _zero_point(value: ir.Value | None) -> int | None:
    if value is None:
        return 0
    producer = value.producer()
    tensor = value.const_value if producer is None else held_tensor(producer)
    if tensor is None or tensor.size == 0:
        return None
    points = np.unique(tensor.numpy().astype(np.int64))
    return int(points[0]) if len(points) == 1 else None


def _sparsity(weights: list[_Weight]) -> float | None:
    zero = total = 0
    for weight in weights:
        if weight.matters and weight.zero_point is not None:
            zero += zeros(weight.tensor, weight.zero_point)
            total += weight.tensor.size
    return zero / total if total else None


def _largest(weights: list[_Weight], sparsity: bool) -> tuple[Weight, ...]:
    # The name breaks ties, so that the order does not hang on that of the file.
    ordered = sorted(weights, key=lambda weight: (-weight.tensor.nbytes, weight.at))
    return tuple(
        Weight(
            name=weight.at,
            shape=tuple(weight.tensor.shape.numpy()),
            dtype=weight.tensor.dtype.name,
            size=weight.tensor.nbytes,
            sparsity=weight.sparsity() if sparsity else None,
        )
        for weight in ordered[:_LARGEST]
    )


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}::{node.op_type}"


def _function_name(function: ir.Function) -> str:
    overload = f":{function.overload}" if function.overload else ""
    return f"{function.domain}::{function.name}{overload}"


def _port(value: ir.Value) -> Port:
    if isinstance(value.type, ir.TensorType):
        kind = value.type.dtype.name
    else:
        kind = "unknown" if value.type is None else str(value.type)
    return Port(value.name or "", kind, dims_of(value))


def _warnings(model: ir.Model) -> tuple[str, ...]:
    count, example = source_paths(model)
    if not count or example is None:
        return ()
    return (
        f"{count} of its texts hold source paths of the machine that exported it, "
        f"such as {example[:120]}; run the pass strip to remove them",
    )
