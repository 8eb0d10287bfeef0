"""The grids of activations, weights and biases, from ranges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.rewrite.constants import array, constant
from graphopt.rewrite.grid import Array, Grid, extent, grid_for, limits
from graphopt.rewrite.layers import Axes, slot
from passes.quantize.static.layers import Layer, bounds
from passes.quantize.static.plan import Group, Planned
from passes.quantize.static.relabel import gates_itself, line, reaching, spans
from passes.quantize.static.settings import Range, Settings
from passes.quantize.targets.rules import Kind

_BIAS_LIMIT = float(1 << 30)
"""A bias takes at most half of the accumulator."""

_DEAD_BIAS = float(1 << 20)
"""Steps that a bias gets where the weights of its channel are all zero."""


@dataclass(frozen=True)
class Grids:
    """The grids of a model.

    Args:
        activations: By value.
        weights: By value.
    """

    activations: Mapping[ir.Value, Grid]
    weights: Mapping[ir.Value, Grid]


def activation_grid(
    group: Group,
    ranges: Mapping[ir.Value, Range],
    settings: Settings,
    planned: Iterable[Planned],
    real: ir.DataType,
) -> Grid:
    """Return the grid of values that share a scale.

    Args:
        group: The values.
        ranges: By value.
        settings: What is asked for.
        planned: The layers of the model, whose clamps end a range.
        real: The type of the values, and so of the scale.

    Raises:
        GraphoptError: What is given by hand contradicts itself.
    """
    given = [o for value in group.members if (o := settings.overrides.get(value.name or ""))]
    dtypes = {override.dtype for override in given if override.dtype is not None}
    if len(dtypes) > 1:
        raise GraphoptError(f"quantize: overrides give {group.name!r} and its kin several types")
    dtype = dtypes.pop() if dtypes else settings.activations
    for override in given:
        if override.scale is not None:
            zero = np.asarray(override.zero_point or 0, np.int32)
            return Grid(dtype, np.asarray(override.scale, real.numpy()), zero)
    ends = [_root_range(value, ranges, settings) for value in group.roots]
    ends += [_inserted(layer) for layer in group.layers]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    symmetric = settings.symmetric_activations or settings.target.symmetric
    roots = _lines_through(group, planned)
    for root in roots:
        low, high = spans(low, high, root, only_there=gates_itself(group.members[0]))
    grid = grid_for(low, high, dtype, symmetric=symmetric, scale_dtype=real)
    if roots:
        grid = reaching(grid, roots[0]) or grid
    top = min((end for one in planned if (end := _top(one, group)) is not None), default=None)
    return grid if top is None or high < top else _below(grid, top)


def _lines_through(group: Group, planned: Iterable[Planned]) -> list[float]:
    """Return how far below 0 the group is read by operators that relabel it."""
    layers = [one.layer for one in planned if one.layer.relabels]
    lines = [line(layer.node) for layer in layers if layer.reads[0] in group.members]
    return [found.root for found in lines if found is not None and found.offset]


def _root_range(value: ir.Value, ranges: Mapping[ir.Value, Range], settings: Settings) -> Range:
    return settings.override(value).bounds(ranges[value])


def _inserted(layer: Layer) -> Range:
    """Return the range of constants that a layer mixes with what it passes on."""
    values = [array(layer.node.inputs[index]) for index in layer.constants]
    if layer.node.op_type == "Pad" and len(layer.node.inputs) > 2:
        values.append(array(layer.node.inputs[2]))
    found = [value for value in values if value is not None and value.size]
    low = min((float(value.min()) for value in found), default=0.0)
    return min(low, 0.0), max((float(value.max()) for value in found), default=0.0)


def _top(one: Planned, group: Group) -> float | None:
    if one.layer.clamp is None or not set(one.layer.outputs) & set(group.members):
        return None
    limit = bounds(one.layer.clamp)
    return None if limit is None or math.isinf(limit[1]) else limit[1]


def _below(grid: Grid, top: float) -> Grid:
    """Return a grid whose largest number is not above the end of a clamp, by rounding."""
    while float(grid.dequantize(np.asarray(limits(grid.dtype)[1]))) > top:
        grid = replace(grid, scale=np.nextafter(grid.scale, grid.scale.dtype.type(0)))
    return grid


def covers_only(grid: Grid, clamp: ir.Node) -> bool:
    """Whether a grid has no number outside of the limits of a clamp, which so does nothing."""
    limit = bounds(clamp)
    if limit is None:
        return False
    ends = grid.dequantize(np.asarray(limits(grid.dtype)))
    return bool(limit[0] <= ends[0] and ends[1] <= limit[1])


@dataclass(frozen=True)
class Use:
    """How one layer reads a weight that is to be quantized.

    Args:
        layer: The layer.
        input_scale: The scale of its activation; None: it is not on a known grid.
    """

    layer: Layer
    input_scale: Array | None

    @property
    def axes(self) -> Axes:
        """The axes of the weight."""
        assert self.layer.weight is not None
        tensor = constant(self.layer.node.inputs[self.layer.weight])
        assert tensor is not None
        found = slot(self.layer.node, self.layer.weight, len(tensor.shape))
        assert found is not None
        return found.axes


def weight_grid(value: ir.Value, uses: list[Use], settings: Settings) -> Grid:
    """Return the grid of a weight.

    A channel whose bias would not fit into 32 bits, in steps of input scale x weight scale, gets
    a coarser weight scale: its weights are so small beside its bias that they hardly count.

    Args:
        value: The weight.
        uses: The layers that read it.
        settings: What is asked for.
    """
    weight = array(value)
    assert weight is not None
    # No kernel takes a matrix of signed integers in front of one of unsigned integers.
    is_left = any(use.layer.weight == 0 for use in uses)
    usual = settings.activations if is_left else settings.weights
    dtype = settings.override(value).dtype or usual
    axis, block = _granularity(weight, uses, settings)
    kept = value.meta.get("graphopt.grid")
    same = isinstance(kept, Grid) and (kept.dtype, kept.axis, kept.block_size) == (
        dtype,
        axis,
        block,
    )
    if isinstance(kept, Grid) and same and kept.holds(weight):
        return kept
    low, high = extent(weight, axis, block)
    given = settings.override(value)
    low = low if given.low is None else np.maximum(low, given.low)
    high = high if given.high is None else np.minimum(high, given.high)
    symmetric = settings.symmetric_activations if is_left else settings.symmetric_weights
    grid = grid_for(
        low,
        high,
        dtype,
        symmetric=symmetric,
        narrow=symmetric,
        axis=axis,
        block_size=block,
        scale_dtype=ir.DataType.from_numpy(weight.dtype),
    )
    return grid if block else _with_room_for_biases(grid, uses, low, high, settings)


def _granularity(weight: Array, uses: list[Use], settings: Settings) -> tuple[int | None, int]:
    outputs = {use.axes.output for use in uses}
    if settings.granularity == "block":
        inner = {use.axes.input for use in uses}
        axis = inner.pop() if len(inner) == 1 else None
        return (axis, settings.block_size) if axis is not None else (None, 0)
    if settings.granularity == "tensor" or len(outputs) != 1:
        return None, 0
    # The kernels take one scale per column of a matrix, and per output channel of a convolution.
    layers = {use.layer.node.op_type for use in uses}
    if layers & {"MatMul"} and weight.ndim != 2:
        return None, 0
    if any(use.layer.weight != 1 for use in uses):
        return None, 0
    groups = max(use.axes.groups for use in uses)
    return (None, 0) if groups > 1 else (outputs.pop(), 0)


def _with_room_for_biases(
    grid: Grid, uses: list[Use], low: Array, high: Array, settings: Settings
) -> Grid:
    dead = (np.asarray(low) == 0) & (np.asarray(high) == 0)
    least = np.zeros_like(grid.scale, np.float64)
    for use in uses:
        bias = bias_of(use.layer)
        if bias is None or use.input_scale is None:
            continue
        most = np.abs(bias.astype(np.float64).reshape(-1)) / float(use.input_scale)
        if grid.axis is None:
            most = np.asarray(most.max(initial=0.0))
        least = np.maximum(least, most / np.where(dead, _DEAD_BIAS, _BIAS_LIMIT))
    chosen = np.where(dead & (least > 0), least, np.maximum(grid.scale, least))
    return replace(grid, scale=chosen.astype(grid.scale.dtype))


def bias_of(layer: Layer) -> Array | None:
    """Return the constant bias of a layer."""
    place = layer.bias
    if layer.rule.kind != Kind.COMPUTE or place is None:
        return None
    bias = array(place[0].inputs[place[1]])
    return bias if bias is not None and bias.dtype == np.float32 else None


def bias_grid(bias: Array, input_scale: Array, weight: Grid) -> Grid | None:
    """Return the grid of a bias: its step is that of the products it is added to.

    Returns:
        None where 32 bits do not hold it.
    """
    scale = np.asarray(input_scale, np.float32) * weight.scale.astype(np.float32)
    if bias.ndim != 1 or scale.ndim > 1 or (scale.ndim == 1 and scale.size != bias.size):
        return None
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    if (np.abs(bias.astype(np.float64)) / scale > 2 * _BIAS_LIMIT - 1).any():
        return None
    return Grid(ir.DataType.INT32, scale, axis=None if scale.ndim == 0 else 0)
