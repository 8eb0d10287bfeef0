"""Static quantization: the grids of activations are fixed, from data, before the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Finding, Rewrite
from graphopt.rewrite.constants import array
from graphopt.rewrite.grid import Array, Grid, grid_for
from graphopt.rewrite.names import Names
from graphopt.rewrite.opsets import QUANTIZE_BLOCKS, QUANTIZE_CHANNELS, QUANTIZE_FLOAT8
from graphopt.rewrite.selection import selects
from graphopt.rewrite.shapes import Shapes
from passes.quantize.static import idioms
from passes.quantize.static.grids import Grids, Use, activation_grid, weight_grid
from passes.quantize.static.insertion import Insertion
from passes.quantize.static.layers import dequantizes, stored_integers
from passes.quantize.static.plan import Plan, Planned, plan
from passes.quantize.static.relabel import line
from passes.quantize.static.settings import Override, Range, Settings
from passes.quantize.targets.rules import Kind

__all__ = ["Override", "Settings", "is_meant", "opset_for", "rewrites"]

_HUGE = 1e8
"""A range up to here is no activation's: the number stands for infinity."""

Measure = Callable[[tuple[str, ...]], Mapping[str, Range]]
"""Returns ranges by the addresses of values; those that cannot be measured are left out."""


def rewrites(
    model: ir.Model, settings: Settings, measure: Measure
) -> Iterator[Rewrite | Declined | Finding]:
    """Yield one rewrite for each layer that is put on integers.

    Args:
        model: The model, of an opset that has what is to be written.
        settings: What is asked for.
        measure: Asked for the ranges of activations, in few calls.
    """
    try:
        if any(_is_layer(node, settings) for scope in scopes(model) for node in scope.graph):
            yield from idioms.rewrites(model, settings)
        Shapes.forget(model)
        chosen, ranges = _measured_plan(model, settings, measure)
        yield from chosen.declined
        grids = _grids(chosen, ranges, settings, Shapes.of(model))
        insertion = Insertion(model, grids, settings.target)
        for planned in chosen.layers:
            insertion.watch(planned)
        # Described before anything is edited: an edit replaces what later layers read.
        steps = [_rewrite(planned, insertion, grids) for planned in chosen.layers]
        yield from steps
    finally:
        Names.forget(model)
        Shapes.forget(model)


def _is_layer(node: ir.Node, settings: Settings) -> bool:
    rule = settings.target.rule(node)
    return rule is not None and rule.kind == Kind.COMPUTE


def _measured_plan(
    model: ir.Model, settings: Settings, measure: Measure
) -> tuple[Plan, Mapping[str, Range]]:
    """Plan and measure until every value that is quantized has a range."""
    barred: dict[str, str] = {}
    ranges: dict[str, Range] = {}
    while True:
        chosen = plan(model, settings, Shapes.of(model), barred)
        asked = tuple(name for name in chosen.measured if name not in ranges)
        ranges.update(measure(asked) if asked else {})
        unfit = {name: why for name in chosen.measured if (why := _unfit(name, ranges.get(name)))}
        if not unfit:
            return chosen, ranges
        barred.update(unfit)


def _unfit(name: str, found: Range | None) -> str | None:
    if found is None:
        return f"no range of {name!r} was measured"
    if not np.isfinite(found).all():
        return f"{name!r} is not finite"
    if max(-found[0], found[1]) >= _HUGE:
        return f"{name!r} reaches {max(found, key=abs):.3g}, which stands for infinity"
    return None


def _grids(chosen: Plan, ranges: Mapping[str, Range], settings: Settings, shapes: Shapes) -> Grids:
    named = {value: ranges[chosen.addresses[value]] for g in chosen.distinct() for value in g.roots}
    activations: dict[ir.Value, Grid] = {}
    for group in chosen.distinct():
        real = shapes.dtype(group.members[0]) or group.members[0].dtype or ir.DataType.FLOAT
        grid = activation_grid(group, named, settings, chosen.layers, real)
        activations.update(dict.fromkeys(group.members, grid))
    for planned in chosen.layers:
        if planned.layer.relabels and (found := line(planned.layer.node)) is not None:
            grid = found.grid(activations[planned.layer.reads[0]])
            activations[planned.layer.outputs[0]] = grid
    uses: dict[ir.Value, list[Use]] = {}
    for planned in chosen.layers:
        layer = planned.layer
        if layer.rule.kind == Kind.ELEMENTWISE:
            for index in layer.constants:
                value = layer.node.inputs[index]
                if value is not None and value not in activations:
                    activations[value] = _constant_grid(value, settings)
        if layer.weight is None:
            continue
        value = layer.node.inputs[layer.weight]
        if value is not None and not stored_integers(value):
            uses.setdefault(value, []).append(Use(layer, _scale(layer.reads[0], activations)))
    weights = {value: weight_grid(value, readers, settings) for value, readers in uses.items()}
    return Grids(activations, weights)


def _scale(value: ir.Value, activations: Mapping[ir.Value, Grid]) -> Array | None:
    if value in activations:
        return activations[value].scale
    producer = value.producer()
    return array(producer.inputs[1]) if producer is not None and dequantizes(value) else None


def _constant_grid(value: ir.Value, settings: Settings) -> Grid:
    numbers = array(value)
    assert numbers is not None
    symmetric = settings.symmetric_activations or settings.target.symmetric
    return grid_for(
        numbers.min(),
        numbers.max(),
        settings.activations,
        symmetric=symmetric,
        scale_dtype=ir.DataType.from_numpy(numbers.dtype),
    )


def _rewrite(planned: Planned, insertion: Insertion, grids: Grids) -> Rewrite:
    layer = planned.layer
    details: dict[str, str | float | int | bool | None] = {"operator": layer.node.op_type}
    outputs = [value for value in planned.integer_outputs if value in grids.activations]
    for name, value in [("input", layer.reads[0]), *(("output", v) for v in outputs[:1])]:
        grid = grids.activations.get(value)
        if grid is not None:
            details[f"{name}_scale"] = float(grid.scale)
            details[f"{name}_zero_point"] = (
                int(grid.zero_point) if grid.zero_point is not None else 0
            )
    kind = "computes on integers" if layer.rule.kind == Kind.COMPUTE else "keeps integers"
    leaves = "float" if not planned.integer_outputs else "integers"
    return Rewrite(
        at=layer.at,
        why=f"{layer.node.op_type} {kind}, leaves {leaves}",
        apply=lambda: insertion.quantize(planned),
        details=details,
    )


def is_meant(node: ir.Node, scope: Scope, settings: Settings) -> bool:
    """Whether a node is a layer that sums products and is asked for."""
    chosen = (settings.include, settings.exclude, settings.op_types)
    return _is_layer(node, settings) and selects(node, scope, *chosen)


def opset_for(settings: Settings, *, half: bool = False) -> int:
    """Return the opset that has all that is written.

    Args:
        settings: What is asked for.
        half: Whether there are float16 activations, whose scales are float16.
    """
    dtypes = {settings.activations, settings.weights}
    dtypes |= {o.dtype for o in settings.overrides.values() if o.dtype is not None}
    if settings.block_size or any(dtype.bitwidth in (4, 16) for dtype in dtypes):
        return QUANTIZE_BLOCKS
    if half or not all(dtype.is_integer() for dtype in dtypes):
        return QUANTIZE_FLOAT8
    return QUANTIZE_CHANNELS
