"""Which nodes run on integers: grown from the layers that gain by it, along what holds the chain.

A region starts at layers that sum products (Conv, Gemm, MatMul). It takes in what the target runs
on integers behind them, as long as all that it reads are integers already or as long as all that
it writes is wanted as such; so a residual Add between convolutions joins, and that of a
transformer, whose sum goes to a normalization, does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.constants import constant, is_op
from graphopt.rewrite.shapes import Shapes
from passes.quantize.static.layers import (
    Layer,
    bounds,
    clamp_behind,
    dequantizes,
    quantized_only,
)
from passes.quantize.static.relabel import line
from passes.quantize.static.settings import Settings
from passes.quantize.targets.rules import RELABELLED, Kind, Rule, Target

_NORMALIZATIONS = frozenset(
    {
        "LayerNormalization",
        "SimplifiedLayerNormalization",
        "RMSNormalization",
        "GroupNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)

Selected = Callable[[ir.Node], bool]
Barred = Callable[[ir.Value], bool]


class Region:
    """The nodes of one scope that run on integers; regions of one scope that do not touch, too.

    Args:
        scope: The scope.
        settings: What is asked for.
        shapes: What is known of the values.
        selected: Whether the user wants a node.
        barred: Whether a value must stay float.
        seeds: The layers that it grows from.
    """

    def __init__(
        self,
        scope: Scope,
        settings: Settings,
        shapes: Shapes,
        selected: Selected,
        barred: Barred,
        seeds: list[Layer],
    ) -> None:
        self._scope, self._settings, self._shapes = scope, settings, shapes
        self._target = settings.target
        self._selected, self._barred = selected, barred
        self._layers: dict[ir.Node, Layer] = {}
        self._swallowed: set[ir.Node] = set()
        self._borne_by: dict[ir.Value, Layer] = {}
        for seed in seeds:
            self._add(seed)
        self._grow()

    def __iter__(self) -> Iterator[Layer]:
        """The layers in the order of the graph."""
        return (self._layers[node] for node in self._scope.graph if node in self._layers)

    def is_integer(self, value: ir.Value) -> bool:
        """Whether the layer that computes a value leaves it as integers."""
        layer = self._borne_by.get(value)
        if layer is None:
            return dequantizes(value)
        return not layer.rule.float_output or self._wanted_as_integers(value)

    def _add(self, layer: Layer) -> None:
        self._layers[layer.node] = layer
        self._swallowed.update(n for n in (layer.sum, layer.clamp) if n is not None)
        for output in layer.outputs:
            self._borne_by[output] = layer

    def _grow(self) -> None:
        nodes = [node for node in self._scope.graph if self._target.rule(node) is not None]
        before = -1
        while before != len(self._layers):
            before = len(self._layers)
            for node in (*nodes, *reversed(nodes)):
                if node in self._layers or node in self._swallowed:
                    continue
                layer = self._candidate(node)
                if layer is not None and self._joins(layer):
                    self._add(layer)

    def _candidate(self, node: ir.Node) -> Layer | None:
        rule = self._target.rule(node)
        if rule is None or rule.kind == Kind.COMPUTE or not self._selected(node):
            return None
        if rule.when is not None and rule.when(node, self._shapes) is not None:
            return None
        if rule.factor and line(node) is not None and not _shares_scale(node, self._target):
            rule = RELABELLED
        return self._laid_out(node, rule)

    def _laid_out(self, node: ir.Node, rule: Rule) -> Layer | None:
        indices = range(len(node.inputs)) if rule.inputs is None else rule.inputs
        given = [index for index in indices if node.inputs[index] is not None]
        constants = tuple(i for i in given if constant(node.inputs[i]) is not None)
        activations = tuple(i for i in given if i not in constants)
        clamp = self._clamp(node) if rule.kind == Kind.ELEMENTWISE else None
        layer = Layer(node, self._scope, rule, activations, constants, clamp=clamp)
        if not self._can_be_written(layer):
            return None
        touched = (*layer.reads, *layer.outputs)
        if not activations or any(self._barred(v) or not is_real(v, self._shapes) for v in touched):
            return None
        return layer

    def _can_be_written(self, layer: Layer) -> bool:
        rule = layer.rule
        if rule.kind == Kind.CLAMP and bounds(layer.node) is None:
            return False
        if rule.kind == Kind.RELABEL:
            if line(layer.node) is None or _shares_scale(layer.node, self._target):
                return False
        elif rule.kind != Kind.CLAMP and not rule.integers:
            return True
        # Clip and Pad of other integers are in the specification, and in no runtime.
        dtypes = {self._settings.override(v).dtype for v in (*layer.reads, *layer.outputs)}
        dtypes = {dtype or self._settings.activations for dtype in dtypes}
        return dtypes <= {ir.DataType.UINT8, ir.DataType.INT8}

    def _clamp(self, node: ir.Node) -> ir.Node | None:
        clamp = clamp_behind(node)
        return clamp if clamp is not None and self._selected(clamp) else None

    def _joins(self, layer: Layer) -> bool:
        if layer.keeps_scale:
            return self._keeps_chain(layer)
        reads = layer.reads
        if layer.rule.kind == Kind.RELABEL:
            return self._relabels(layer)
        if not any(map(self.is_integer, reads)) or any(map(_is_normalized, layer.outputs)):
            return False
        if all(self.is_integer(value) or self._is_read(value) for value in reads):
            return True
        return all(map(self._wanted_as_integers, layer.outputs))

    def _relabels(self, layer: Layer) -> bool:
        value = layer.reads[0]
        producer = self._borne_by.get(value)
        if producer is None or not self.is_integer(value) or quantized_only(layer.outputs[0]):
            return False
        found = line(layer.node)
        return found is not None and not (found.offset and producer.rule.kind == Kind.RELABEL)

    def _keeps_chain(self, layer: Layer) -> bool:
        # What is quantized already, has a scale that nothing here may change.
        if any(map(dequantizes, layer.reads)) or any(map(quantized_only, layer.outputs)):
            return False
        if all(map(self.is_integer, layer.reads)):
            return True
        return layer.rule.backward and all(map(self._wanted_as_integers, layer.outputs))

    def _wanted_as_integers(self, value: ir.Value) -> bool:
        """Whether all that reads a value reads integers."""
        if quantized_only(value):
            return True
        uses = [use for use in value.uses() if not is_op(use.node, "Shape", "Size")]
        if not uses or value.is_graph_output():
            return False
        return all(self._reads(use.node, use.idx) for use in uses)

    def _is_read(self, value: ir.Value) -> bool:
        """Whether a value is quantized for some layer anyway."""
        return any(self._reads(use.node, use.idx) for use in value.uses())

    def _reads(self, node: ir.Node, index: int) -> bool:
        layer = self._layers.get(node)
        return layer is not None and index in layer.activations


def _shares_scale(node: ir.Node, target: Target) -> bool:
    """Whether what reads a node wants to choose the scale that it shares with it."""
    rules = [target.rule(use.node) for use in node.outputs[0].uses()]
    return any(rule is not None and rule.kind in (Kind.SAME, Kind.CLAMP) for rule in rules)


def is_real(value: ir.Value, shapes: Shapes) -> bool:
    """Whether a value holds floating-point numbers that can be quantized."""
    dtype = shapes.dtype(value) or value.dtype
    return dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def _is_normalized(value: ir.Value) -> bool:
    """Whether a value is a sum whose own precision counts: the input of a normalization."""
    readers = [use.node for use in value.uses()]
    if any(node.op_type in _NORMALIZATIONS for node in readers):
        return True
    # LayerNormalization written out: x - mean(x).
    means = [node.outputs[0] for node in readers if is_op(node, "ReduceMean")]
    centered = [node for node in readers if is_op(node, "Sub") and node.inputs[0] is value]
    return any(node.inputs[1] in means for node in centered)
