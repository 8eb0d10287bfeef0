"""`to_float32`: half-precision models computed in full precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.rewrite.constants import is_op, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import Globs, address, selects
from graphopt.rewrite.shapes import Shapes
from passes.quantize.precision.calls import calls_of
from passes.quantize.precision.positions import positions
from passes.quantize.precision.retype import Retyper

__all__ = ["ToFloat32"]


@dataclass(frozen=True)
class ToFloat32(Pass):
    """Compute in float32 what a model computes in float16 or bfloat16.

    Weights become the float32 numbers that they stand for, exactly; sums and products are no
    longer rounded to the narrow type, so outputs change by its rounding. Casts that meet their
    opposites go. It is what a provider needs that has no kernels for the narrow type, and what
    quantization starts from. The file grows to twice its size.

    Args:
        keep_io: Whether float16 and bfloat16 inputs and outputs stay so. Without it, they become
            float32.
        include: Globs on names of nodes, of what they write or of constants they read; one that
            matches lets a node in.
        exclude: Globs that keep nodes out.
        op_types: Only these operators; None: all.
    """

    name: ClassVar[str] = "to_float32"
    effect: ClassVar[Effect] = Effect.LOSSY

    keep_io: bool = True
    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Say whether the interface stays."""
        object.__setattr__(self, "keeps_interface", self.keep_io)

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per node and function, then one for the interface."""
        del context
        narrow = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        retyper = Retyper(model, narrow, ir.DataType.FLOAT)
        try:
            listed = [(scope, list(scope.graph)) for scope in scopes(model)]
            for scope, nodes in listed:
                for node in nodes:
                    if self._selects(node, scope):
                        yield from _node(model, retyper, node, scope)
            for function in model.functions.values():
                yield from self._function(model, retyper, function)
            types = {retyper.types(v) for v in (*model.graph.inputs, *model.graph.outputs)}
            if not self.keep_io and types & retyper.sources:
                why = "asked for with keep_io=False: float"
                yield Rewrite("inputs and outputs", why, retyper.interface)
        finally:
            Names.forget(model)
            Shapes.forget(model)

    def _selects(self, node: ir.Node, scope: Scope) -> bool:
        types = (self.op_types,) if isinstance(self.op_types, str) else self.op_types
        return selects(node, scope, self.include, self.exclude, types)

    def _function(
        self, model: ir.Model, retyper: Retyper, function: ir.Function
    ) -> Iterator[Rewrite]:
        calls = calls_of(model, function)
        values = (*function.inputs, *function.outputs)
        if not any(retyper.types(value) in retyper.sources for value in values):
            return
        if not all(self._selects(node, scope) for node, scope in calls):
            return
        at = ":".join(part for part in function.identifier() if part)
        nodes = [node for node, _ in calls]
        why = f"{len(nodes)} calls in float"
        yield Rewrite(at, why, partial(retyper.function, function, nodes))


def _node(
    model: ir.Model, retyper: Retyper, node: ir.Node, scope: Scope
) -> Iterator[Rewrite | Declined]:
    if node.graph is None or is_op(node, "Constant") or node.op_identifier() in model.functions:
        return
    version = opset(model, scope.function)
    found = positions(node, version, retyper.types, retyper.sources, retyper.target)
    if isinstance(found, str):
        yield Declined(address(node, scope), found)
    elif found:
        why = f"{node.op_type} in float"
        apply = partial(retyper.node, node, found)
        yield Rewrite(address(node, scope), why, apply, {"op_type": node.op_type})
