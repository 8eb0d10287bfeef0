"""The layers that integer regions grow from, and why others do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined
from graphopt.rewrite.constants import constant, is_op
from graphopt.rewrite.layers import Role, slot
from graphopt.rewrite.selection import address, selects
from graphopt.rewrite.shapes import Shapes
from passes.quantize.static.layers import Layer, bias_behind, clamp_behind, stored_integers
from passes.quantize.static.regions import is_real
from passes.quantize.static.settings import Settings
from passes.quantize.targets.rules import Kind, Rule


@dataclass
class Seeds:
    """The layers of a model that sum products.

    Args:
        layers: Those that will do it in integers.
        declined: Those that were meant and cannot.
    """

    layers: list[Layer] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)

    def of(self, scope: Scope) -> list[Layer]:
        """Return the layers of one scope."""
        return [layer for layer in self.layers if layer.scope.graph is scope.graph]


def seeds(
    model: ir.Model, settings: Settings, shapes: Shapes, objection: Callable[[ir.Value], str | None]
) -> Seeds:
    """Find the layers that sum products, in all scopes.

    Args:
        model: The model.
        settings: What is asked for.
        shapes: What is known of its values.
        objection: Says why a value must stay float; None: it need not.
    """
    found = Seeds()
    for scope in scopes(model):
        for node in scope.graph:
            rule = settings.target.rule(node)
            if rule is None or rule.kind != Kind.COMPUTE:
                continue
            if not selects(node, scope, settings.include, settings.exclude, settings.op_types):
                continue
            layer = _layer(node, scope, rule, settings, shapes, objection)
            if isinstance(layer, Layer):
                found.layers.append(layer)
            elif layer:
                found.declined.append(Declined(address(node, scope), layer))
    _without_shared_weights(found)
    return found


def _layer(  # noqa: PLR0911 - one return per reason
    node: ir.Node,
    scope: Scope,
    rule: Rule,
    settings: Settings,
    shapes: Shapes,
    objection: Callable[[ir.Value], str | None],
) -> Layer | str:
    if scope.function is not None:
        return "its activations inside a function cannot be measured: inline functions first"
    if rule.when is not None and (why := rule.when(node, shapes)) is not None:
        return f"{settings.target.name} runs no {why} on integers"
    operands = [index for index in rule.inputs or () if node.inputs[index] is not None]
    stored = [i for i in operands if _is_stored(node.inputs[i])]
    activations = tuple(i for i in operands if i not in stored)
    if not activations:
        return "both operands are constants: cleanup folds them"
    if not stored and node.op_type != "MatMul":
        return "its weight is computed"
    weight = stored[0] if stored else None
    if weight is not None and (why := _weight_objection(node, weight)) is not None:
        return why
    added, clamp = _behind(node, weight, scope, settings, shapes)
    layer = Layer(node, scope, rule, activations, weight=weight, sum=added, clamp=clamp)
    for value in (*layer.reads, *layer.outputs):
        if not is_real(value, shapes):
            return f"{value.name!r} is of no type that can be quantized"
        if (why := objection(value)) is not None:
            return why
    return layer


def _behind(
    node: ir.Node, weight: int | None, scope: Scope, settings: Settings, shapes: Shapes
) -> tuple[ir.Node | None, ir.Node | None]:
    """Return the sum with a bias and the clamp behind a node that belong to its layer."""
    added = bias_behind(node, shapes) if weight == 1 else None
    if added is not None and not joins(added, scope, settings):
        added = None
    clamp = clamp_behind(node if added is None else added)
    return added, clamp if clamp is not None and joins(clamp, scope, settings) else None


def joins(node: ir.Node, scope: Scope, settings: Settings) -> bool:
    """Whether a node may join a region.

    `include` and `op_types` choose layers, not what holds them together.
    """
    return selects(node, scope, "*", settings.exclude)


def _is_stored(value: ir.Value | None) -> bool:
    return constant(value) is not None or stored_integers(value)


def _weight_objection(node: ir.Node, index: int) -> str | None:
    tensor = constant(node.inputs[index])
    if tensor is None:
        return None
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return f"its weight is of type {tensor.dtype.name}"
    if tensor.size == 0:
        return "its weight is empty"
    found = slot(node, index, len(tensor.shape))
    if found is None or found.role != Role.WEIGHT:
        return "its weight has a shape that no layer sums over"
    if not np.isfinite(tensor.numpy()).all():
        return "its weight holds NaN or infinity"
    return None


def _without_shared_weights(found: Seeds) -> None:
    """Drop layers whose weight something reads that stays float: its float copy would stay."""
    dropped = True
    while dropped:
        dropped = False
        readers = {
            (layer.node, layer.weight): layer for layer in found.layers if layer.weight is not None
        }
        for layer in list(found.layers):
            value = None if layer.weight is None else layer.node.inputs[layer.weight]
            if value is None or stored_integers(value):
                continue
            others = [
                use.node
                for use in value.uses()
                if (use.node, use.idx) not in readers and not is_op(use.node, "Shape", "Size")
            ]
            if others or value.is_graph_output():
                found.layers.remove(layer)
                reader = f"{others[0].op_type} {others[0].name!r}" if others else "the caller"
                why = f"{reader} reads its weight too and stays float, so the float copy would stay"
                found.declined.append(Declined(layer.at, why))
                dropped = True
