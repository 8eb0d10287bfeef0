"""What `to_float16` and `to_bfloat16` share: they differ in the type, and in what it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import onnx_ir as ir

from graphopt.calibration.ranges import ranges
from graphopt.errors import GraphoptError
from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Context, Declined, Detail, Effect, Pass, Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.constants import constant, is_op, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.opsets import is_below, raise_opset
from graphopt.rewrite.selection import Globs, address, selects
from graphopt.rewrite.shapes import Shapes
from passes.quantize.precision import limits
from passes.quantize.precision.calls import calls_of
from passes.quantize.precision.float_arrays import largest
from passes.quantize.precision.kernels import has_kernel
from passes.quantize.precision.positions import MOVES, SAID, Positions, positions
from passes.quantize.precision.retype import Retyper

Target = Literal["auto", "generic", "ort-cpu", "ort-cuda"]

_STORED = 1024
"""Constants of so many elements are stored narrow where they are not computed with so."""

_QUANTIZING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")

Range = tuple[float, float]


@dataclass(frozen=True)
class MixedPrecision(Pass):
    """Compute in a narrower float type where that is safe; see the passes that derive from it."""

    effect: ClassVar[Effect] = Effect.LOSSY
    dtype: ClassVar[ir.DataType]
    least_opset: ClassVar[int]

    keep_io: bool = True
    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None
    target: Target = "auto"

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.target not in get_args(Target):
            raise GraphoptError(
                f"{self.name}: target must be one of {', '.join(get_args(Target))},"
                f" not {self.target!r}"
            )
        # Of the class in the contract, of each pass here: it depends on a parameter.
        object.__setattr__(self, "keeps_interface", self.keep_io)

    def resolved(self, context: Context) -> str:
        """Return what `target="auto"` stands for."""
        raise NotImplementedError

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per node, function and stored weight, then one for the interface."""
        yield from _raised(model, self.least_opset)
        if is_below(model, self.least_opset):
            return
        try:
            yield from _Conversion(self, model, context).rewrites()
        finally:
            Names.forget(model)
            Shapes.forget(model)

    def selects(self, node: ir.Node, scope: Scope) -> bool:
        """Whether a node is meant."""
        types = (self.op_types,) if isinstance(self.op_types, str) else self.op_types
        return selects(node, scope, self.include, self.exclude, types)


def _raised(model: ir.Model, version: int) -> Iterator[Rewrite | Declined]:
    if not is_below(model, version):
        return
    try:
        raise_opset(snapshot(model), version)
    except GraphoptError as error:
        yield Declined("opset", error.cause)
        return
    yield Rewrite(
        "opset", f"casts to the type came with {version}", partial(raise_opset, model, version)
    )


class _Conversion:
    """One run of a pass."""

    def __init__(self, work: MixedPrecision, model: ir.Model, context: Context) -> None:
        self.work = work
        self.model = model
        self.target = work.resolved(context)
        self.retyper = Retyper(model, (ir.DataType.FLOAT,), work.dtype)
        self.narrow = largest(work.dtype) < largest(ir.DataType.FLOAT) / 2
        self.scopes = [(scope, list(scope.graph)) for scope in scopes(model)]
        self.ranges = self._ranges(context)
        nodes = [node for _, listed in self.scopes for node in listed]
        self.growing = limits.growing(nodes, work.dtype, self._is_seen) if self.narrow else {}
        self.storable: dict[ir.Value, None] = {}
        self.owners = {id(scope.graph): scope for scope, _ in self.scopes}

    def rewrites(self) -> Iterator[Rewrite | Declined]:
        done: set[tuple[str, str, str]] = set()
        for scope, nodes in self.scopes:
            for node in nodes:
                function = self.model.functions.get(node.op_identifier())
                if function is None:
                    yield from self._node(node, scope)
                elif function.identifier() not in done:
                    done.add(function.identifier())
                    yield from self._function(function)
        for value in dict.fromkeys((*self.storable, *self.retyper.doubled())):
            yield from self._stored(value)
        if not self.work.keep_io:
            why = f"asked for with keep_io=False: {self.work.dtype.name.lower()}"
            yield Rewrite("inputs and outputs", why, self.retyper.interface)

    def _node(self, node: ir.Node, scope: Scope) -> Iterator[Rewrite | Declined]:
        skipped = node.graph is None or is_op(node, "Constant", *_QUANTIZING)
        if skipped or not self.work.selects(node, scope):
            return
        version = opset(self.model, scope.function)
        found = positions(node, version, self.retyper.types, self.retyper.sources, self.work.dtype)
        if not found:
            return
        if self.target != "generic":
            self._note_constants(node)
        if isinstance(found, str):
            self._note_constants(node)
            # A target computes in the type where it can; that it cannot elsewhere is no news.
            if self.target == "generic":
                yield Declined(address(node, scope), found)
            return
        clamp = limits.clamp_for(node, self.work.dtype) if self.narrow else None
        problem = self._problem(node, found, clamp)
        if problem is not None:
            self._note_constants(node)
            yield Declined(address(node, scope), problem)
            return
        if not self._fits_target(node, version, found):
            return
        name = self.work.dtype.name.lower()
        clamped = clamp is not None and _clamps(node, clamp)
        details: dict[str, Detail] = {"op_type": node.op_type, "clamped": clamped}
        apply = partial(self.retyper.node, node, found, clamp)
        yield Rewrite(address(node, scope), f"{node.op_type} in {name}", apply, details)

    def _problem(self, node: ir.Node, found: Positions, clamp: float | None) -> str | None:
        for index in found.inputs:
            problem = limits.constant_problem(
                node, index, self.work.dtype, clamps=clamp is not None
            )
            if problem is not None:
                return problem
        filled = node.attributes.get("value") if is_op(node, "ConstantOfShape") else None
        if filled is not None and not filled.is_ref() and found.outputs:
            tensor = filled.as_tensor()
            clamps = clamp is not None
            problem = limits.tensor_problem(node, -1, tensor, self.work.dtype, clamps=clamps)
            if problem is not None:
                return problem
        if not self.narrow:
            return None
        if node in self.growing:
            return self.growing[node]
        return limits.activation_problem(node, self.ranges, self.work.dtype)

    def _fits_target(self, node: ir.Node, version: int, found: Positions) -> bool:
        if self.target == "generic":
            # ONNX Runtime casts what a node reads, but it cannot cast for one that reads nothing.
            makes = node.op_type in SAID and not is_op(node, "Cast")
            return not makes or has_kernel(
                "ort-cpu", node, version, found.variables, self.work.dtype
            )
        if is_op(node, "If", "Loop", "Scan"):
            return False
        if not has_kernel(self.target, node, version, found.variables, self.work.dtype):
            return False
        # What computes nothing is not worth a cast.
        return node.op_type not in MOVES or any(self._is_at_hand(node, i) for i in found.inputs)

    def _is_at_hand(self, node: ir.Node, index: int) -> bool:
        value = node.inputs[index]
        producer = None if value is None else value.producer()
        return (
            producer is not None
            and is_op(producer, "Cast")
            and self.retyper.types(producer.inputs[0]) == self.work.dtype
        )

    def _note_constants(self, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            tensor = constant(value)
            if (
                value is None
                or tensor is None
                or self.retyper.types(value) not in self.retyper.sources
            ):
                continue
            problem = limits.constant_problem(node, index, self.work.dtype, clamps=False)
            if tensor.size >= _STORED and problem is None:
                self.storable[value] = None

    def _stored(self, value: ir.Value) -> Iterator[Rewrite]:
        tensor = constant(value)
        if tensor is None or tensor.size < _STORED or value.is_graph_output() or not value.uses():
            return
        scope = self.owners[id(value.graph if value.is_initializer() else _graph(value))]
        name = self.work.dtype.name.lower()
        why = f"stored as {name}, with a cast to float for those who compute in float"
        details = {"weight": value.name}
        yield Rewrite(scope.at(value.name), why, partial(self.retyper.store, value), details)

    def _function(self, function: ir.Function) -> Iterator[Rewrite | Declined]:
        at = ":".join(part for part in function.identifier() if part)
        calls = calls_of(self.model, function)
        types = self.retyper.types
        values = (*function.inputs, *function.outputs)
        if self.target != "generic" or not any(types(v) in self.retyper.sources for v in values):
            return
        if not all(self.work.selects(node, scope) for node, scope in calls):
            return
        problems = [
            limits.activation_problem(node, self.ranges, self.work.dtype) for node, _ in calls
        ]
        problem = next((p for p in problems if p is not None), None)
        if problem is not None and self.narrow:
            yield Declined(at, problem)
            return
        nodes = [node for node, _ in calls]
        why = f"{len(nodes)} calls in {self.work.dtype.name.lower()}"
        yield Rewrite(at, why, partial(self.retyper.function, function, nodes))

    def _is_seen(self, node: ir.Node) -> bool:
        return all(output in self.ranges for output in node.outputs)

    def _ranges(self, context: Context) -> Mapping[ir.Value, Range]:
        """Return what the float values range over, where there are data."""
        if context.feeds is None or not self.narrow:
            return {}
        named: dict[str, ir.Value] = {}
        for scope, nodes in self.scopes:
            for value in (*scope.graph.inputs, *(out for node in nodes for out in node.outputs)):
                is_float = self.retyper.types(value) in self.retyper.sources
                if is_float and not value.is_initializer() and constant(value) is None:
                    named[scope.at(value.name)] = value
        found = ranges(self.model, named, context)
        return {named[name]: range_ for name, range_ in found.items()}


def _clamps(node: ir.Node, limit: float) -> bool:
    tensors = [constant(value) for value in node.inputs]
    return any(
        tensor is not None
        and tensor.dtype == ir.DataType.FLOAT
        and abs(tensor.numpy()).max(initial=0) > limit
        for tensor in tensors
    )


def _graph(value: ir.Value) -> ir.Graph | None:
    producer = value.producer()
    return None if producer is None else producer.graph
