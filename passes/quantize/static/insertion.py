"""QuantizeLinear and DequantizeLinear put into a graph, one layer at a time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphopt.rewrite import uses
from graphopt.rewrite.constants import add_initializer, array, is_op
from graphopt.rewrite.grid import Array, Grid, limits
from graphopt.rewrite.names import Names
from passes.quantize.static.constants import Constants, Quantized
from passes.quantize.static.grids import Grids, bias_grid, bias_of, covers_only
from passes.quantize.static.layers import Layer, bounds, dequantizes, stored_integers
from passes.quantize.static.plan import Planned
from passes.quantize.static.relabel import line
from passes.quantize.targets.rules import Kind, Target

Reader = tuple[ir.Node, int]
"""A node and which of its inputs."""


_BEYOND = 1e30
"""Past the ends of any grid, and a number that can be divided."""


class Insertion:
    """Puts layers on integers, in the order of the graph; any number of them leaves a sound model.

    Args:
        model: The model that is edited.
        grids: Its grids.
        target: What must be written how.
    """

    def __init__(self, model: ir.Model, grids: Grids, target: Target) -> None:
        self._names, self._grids, self._target = Names.of(model), grids, target
        self._quantized: dict[tuple[ir.Value, ir.Graph], Quantized] = {}
        self._constants = Constants(self._names)
        self._weights: dict[tuple[ir.Value, int, ir.Graph], ir.Value] = {}
        # Layers are planned on values that earlier edits may have replaced.
        self._inputs: dict[ir.Node, tuple[ir.Value | None, ...]] = {}

    def watch(self, planned: Planned) -> None:
        """Remember what a layer reads, before anything is edited."""
        self._inputs[planned.layer.node] = tuple(planned.layer.node.inputs)

    def quantize(self, planned: Planned) -> None:
        """Let one layer read and write integers."""
        layer = planned.layer
        if layer.rule.integers or layer.rule.kind == Kind.CLAMP:
            self._on_integers(layer)
            return
        if layer.relabels:
            self._relabel(layer)
            return
        for index in layer.activations:
            self._read_real(layer, index)
        for index in layer.constants:
            self._constant(layer, index)
        if layer.rule.kind == Kind.COMPUTE:
            self._weigh(layer)
        for output in planned.integer_outputs:
            if not _is_quantized(output):
                self._leave(output, layer)

    def _graph(self, layer: Layer) -> ir.Graph:
        return layer.scope.graph

    def _read_real(self, layer: Layer, index: int) -> None:
        value = self._inputs[layer.node][index]
        assert value is not None
        if not dequantizes(value):
            real = self._entered(value, layer).real
            layer.node.replace_input_with(index, real)

    def _entered(self, value: ir.Value, layer: Layer) -> Quantized:
        """Return a value as integers; one that no layer has left as such is quantized here."""
        producer = value.producer()
        home = value.graph if producer is None else producer.graph
        for graph in (self._graph(layer), home):
            if graph is not None and (found := self._quantized.get((value, graph))) is not None:
                return self._revived(found)
        grid = self._grids.activations[value]
        found = self._pair(value, grid, self._graph(layer), before=layer.node)
        self._quantized[value, self._graph(layer)] = found
        return found

    def _revived(self, found: Quantized) -> Quantized:
        """Return it with a DequantizeLinear, which may have been dropped when nobody read it."""
        if found.real.producer() is None or found.real.producer().graph is None:  # type: ignore[union-attr] # checked
            source = found.integers.producer()
            assert source is not None
            assert source.graph is not None
            node = self._constants.dequantize(
                found.integers, found.scale, found.zero_point, found.real.name
            )
            source.graph.insert_after(source, node)
            found.real = node.outputs[0]
        return found

    def _pair(
        self, value: ir.Value, grid: Grid, graph: ir.Graph, before: ir.Node | None = None
    ) -> Quantized:
        scale, zero_point = self._constants.parameters(grid, graph, value.name or "value")
        integers = self._names.fresh(f"{value.name}_q")
        given = [value, scale] if zero_point is None else [value, scale, zero_point]
        quantize = ir.Node("", "QuantizeLinear", given, name=integers)
        quantize.outputs[0].name = integers
        real = self._names.fresh(f"{value.name}_dq")
        dequantize = self._constants.dequantize(quantize.outputs[0], scale, zero_point, real)
        if before is not None:
            graph.insert_before(before, [quantize, dequantize])
        else:
            producer = value.producer()
            assert producer is not None
            graph.insert_after(producer, [quantize, dequantize])
        return Quantized(quantize.outputs[0], dequantize.outputs[0], scale, zero_point)

    def _leave(self, output: ir.Value, layer: Layer) -> None:
        """Quantize what a layer gives, once, for everything that reads it."""
        grid = self._grids.activations[output]
        clamp = layer.clamp
        source = output
        # Clip takes no float8, and no runtime has it for other integers: there the clamp stays.
        clips = grid.dtype in (ir.DataType.UINT8, ir.DataType.INT8) and not self._target.clamps
        if clamp is not None and clips and not covers_only(grid, clamp):
            source = layer.product
        readers = [(use.node, use.idx) for use in output.uses()]
        pair = self._pair(source, grid, self._graph(layer))
        if source is not output:
            assert clamp is not None
            pair = self._clamped(pair, clamp, grid, self._graph(layer))
        self._quantized[output, self._graph(layer)] = pair
        self._hand_over(output, pair, readers)
        if source is not output and clamp is not None:
            uses.remove(clamp)

    def _hand_over(self, output: ir.Value, pair: Quantized, readers: list[Reader]) -> None:
        for node, index in readers:
            if is_op(node, "Shape", "Size"):
                node.replace_input_with(index, pair.integers)
            else:
                node.replace_input_with(index, pair.real)
        if output.is_graph_output():
            name = output.name
            quantizer_reads = [(use.node, use.idx) for use in output.uses()]
            uses.replace(output, pair.real)
            for node, index in quantizer_reads:
                node.replace_input_with(index, output)
            output.name = self._names.fresh(f"{name}_float")
        real = pair.real.producer()
        if real is not None and uses.is_unused(pair.real):
            uses.remove(real)

    def _clamped(self, pair: Quantized, clamp: ir.Node, grid: Grid, graph: ir.Graph) -> Quantized:
        """Limit integers behind a QuantizeLinear as a clamp limits what they stand for."""
        real = pair.real.producer()
        assert real is not None
        node = self._integer_clip(pair.integers, clamp, grid, graph)
        if node is None:
            return pair
        graph.insert_before(real, node)
        real.replace_input_with(0, node.outputs[0])
        return Quantized(node.outputs[0], pair.real, pair.scale, pair.zero_point)

    def _integer_clip(
        self, integers: ir.Value, clamp: ir.Node, grid: Grid, graph: ir.Graph
    ) -> ir.Node | None:
        limit = bounds(clamp)
        assert limit is not None
        return self._clip(integers, limit, grid, graph, clamp.name)

    def _clip(
        self,
        integers: ir.Value,
        limit: tuple[float, float],
        grid: Grid,
        graph: ir.Graph,
        name: str | None,
    ) -> ir.Node | None:
        """Return a Clip of integers; None where their type limits them as much."""
        inputs: list[ir.Value | None] = [integers]
        for end, most in zip(limit, limits(grid.dtype), strict=True):
            stored = grid.quantize(np.asarray(np.clip(end, -_BEYOND, _BEYOND), np.float32))
            if int(stored) == int(most):
                inputs.append(None)
                continue
            bound = self._names.fresh(f"{name or integers.name}_bound")
            inputs.append(add_initializer(graph, bound, ir.Tensor(stored)))
        while inputs[-1] is None:
            inputs.pop()
        if len(inputs) == 1:
            return None
        written = self._names.fresh(f"{integers.name}_clipped")
        node = ir.Node("", "Clip", inputs, name=name or written)
        node.outputs[0].name = written
        return node

    def _on_integers(self, layer: Layer) -> None:
        """Let an operator that only passes numbers on work on the integers themselves."""
        node, graph = layer.node, self._graph(layer)
        inputs = self._inputs[node]
        output = node.outputs[0]
        grid = self._grids.activations[output]
        readers = [(use.node, use.idx) for use in output.uses()]
        value = inputs[layer.activations[0]]
        assert value is not None
        source = self._entered(value, layer)
        if layer.rule.kind == Kind.CLAMP:
            made = self._integer_clip(source.integers, node, grid, graph)
        else:
            made = self._moved(layer, source.integers, grid)
        integers = source.integers if made is None else made.outputs[0]
        name = self._names.fresh(f"{output.name}_dq")
        real = self._constants.dequantize(integers, source.scale, source.zero_point, name)
        graph.insert_after(node, [real] if made is None else [made, real])
        pair = Quantized(integers, real.outputs[0], source.scale, source.zero_point)
        self._quantized[output, graph] = pair
        self._hand_over(output, pair, readers)
        uses.remove(node)
        self._drop_unread(source)

    def _relabel(self, layer: Layer) -> None:
        """Read the same integers, limited, with another scale and zero point."""
        node, graph = layer.node, self._graph(layer)
        value, output = self._inputs[node][layer.activations[0]], node.outputs[0]
        assert value is not None
        found = line(node)
        assert found is not None
        source = self._entered(value, layer)
        grid = self._grids.activations[output]
        readers = [(use.node, use.idx) for use in output.uses()]
        new: list[ir.Node] = []
        integers = source.integers
        if found.limited:
            clip = self._clip(integers, (0.0, 1.0), grid, graph, node.name)
            if clip is not None:
                new.append(clip)
                integers = clip.outputs[0]
        scale, zero_point = self._constants.parameters(grid, graph, output.name or "value")
        name = self._names.fresh(f"{output.name}_dq")
        real = self._constants.dequantize(integers, scale, zero_point, name)
        graph.insert_after(node, [*new, real])
        pair = Quantized(integers, real.outputs[0], scale, zero_point)
        self._quantized[output, graph] = pair
        self._hand_over(output, pair, readers)
        uses.remove(node)
        self._drop_unread(source)

    def _drop_unread(self, source: Quantized) -> None:
        real = source.real.producer()
        if real is not None and real.graph is not None and uses.is_unused(source.real):
            uses.remove(real)

    def _moved(self, layer: Layer, integers: ir.Value, grid: Grid) -> ir.Node:
        node = layer.node
        inputs: list[ir.Value | None] = [integers, *node.inputs[1:]]
        if is_op(node, "Pad") and node.attributes.get_string("mode", "constant") == "constant":
            filling = array(inputs[2]) if len(inputs) > 2 else None
            number = np.zeros((), np.float32) if filling is None else filling.reshape(())
            stored = ir.Tensor(grid.quantize(number.astype(np.float32)))
            name = self._names.fresh(f"{node.outputs[0].name}_filling")
            inputs[2:3] = [add_initializer(self._graph(layer), name, stored)]
        made = ir.Node("", node.op_type, inputs, list(node.attributes.values()), name=node.name)
        made.metadata_props.update(node.metadata_props)
        name = self._names.fresh(f"{node.outputs[0].name}_q")
        made.outputs[0].name = name
        return made

    def _constant(self, layer: Layer, index: int) -> None:
        value = layer.node.inputs[index]
        numbers = array(value)
        assert value is not None
        assert numbers is not None
        if layer.keeps_scale:
            grid = self._grids.activations[layer.outputs[0]]
        else:
            grid = self._grids.activations[value]
        self._store(value, grid, layer, index)

    def _weigh(self, layer: Layer) -> None:
        if layer.weight is None:
            return
        value = self._inputs[layer.node][layer.weight]
        assert value is not None
        if stored_integers(value):
            return
        bias = bias_of(layer)
        weight = self._grids.weights[value]
        self._store(value, weight, layer, layer.weight)
        place = layer.bias
        if bias is None or place is None or not self._target.quantized_bias:
            return
        scale = self._input_scale(layer)
        grid = None if scale is None else bias_grid(bias, scale, weight)
        node, index = place
        held = node.inputs[index]
        if grid is not None and held is not None:
            self._store(held, grid, layer, index, node)

    def _input_scale(self, layer: Layer) -> Array | None:
        value = self._inputs[layer.node][layer.activations[0]]
        assert value is not None
        grid = self._grids.activations.get(value)
        if grid is not None:
            scale: Array | None = grid.scale
        else:
            producer = value.producer()
            scale = None if producer is None else array(producer.inputs[1])
        if scale is None or scale.size != 1:
            return None
        return np.asarray(scale.reshape(()))

    def _store(
        self,
        value: ir.Value,
        grid: Grid,
        layer: Layer,
        index: int,
        reader: ir.Node | None = None,
    ) -> None:
        """Let a layer read a constant from integers; the float one goes with its last reader."""
        graph = self._graph(layer)
        key = (value, self._constants.key(grid), graph)
        real = self._weights.get(key)
        if real is None:
            node = self._constants.stored(value, grid, graph)
            graph.insert_before(layer.node, node)
            real = self._weights[key] = node.outputs[0]
        (reader or layer.node).replace_input_with(index, real)
        integers = self._constants.integers(value, grid)
        for node, position in [(use.node, use.idx) for use in value.uses()]:
            if is_op(node, "Shape", "Size"):
                node.replace_input_with(position, integers)
        uses.remove_unread([value])


def _is_quantized(output: ir.Value) -> bool:
    return any(is_op(use.node, "QuantizeLinear") for use in output.uses())
