"""Input norms for Wanda: |w| times the L2 norm of what it is multiplied with.

Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, ICLR 2024
(arXiv:2306.11695), equation 1. For a convolution, the norm of an input channel runs over samples
and places, as if each place were a token; what falls off the border is not subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.calibration import ChannelSquares, observe, runs
from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.weights import Use, Weight
from graphopt.runtime.session import Session
from passes.threshold.scores import Scored
from passes.threshold.source import Array, Source

_BATCH = 8
"""Samples per run: inner values are many times as large as inputs."""

_Key = tuple[str, int]


def objection(weight: Weight, model: ir.Model) -> str | None:
    """Say why the inputs of a weight's layer cannot be watched, if so."""
    for use in weight.uses:
        value = use.activation
        if value is None:
            return f"the input norms of {use.node.op_type} cannot be watched: it keeps a state"
        if use.scope.graph is not model.graph:
            return f"the input norms of a layer inside {use.scope.name} cannot be watched"
        if value.is_initializer() or not value.name:
            return "what it is multiplied with is no activation"
    return None


def input_norms(
    model: ir.Model, weights: Iterable[Weight], context: Context
) -> Mapping[_Key, Array]:
    """Run the model on the feeds and return norms by the name of a value and its channel axis.

    Raises:
        GraphoptError: There are no feeds, or activations are not finite.
    """
    if context.feeds is None:
        raise GraphoptError("score 'wanda' needs data", fix="give calibration samples with --data")
    statistics: dict[str, dict[int, ChannelSquares]] = {}
    for weight in weights:
        for use in weight.uses:
            name, axis = _key(use)
            statistics.setdefault(name, {}).setdefault(axis, ChannelSquares(axis))
    sizes = _sizes(model, statistics)
    groups = list(runs(sizes))
    for done, names in enumerate(groups):
        context.progress("input norms", done, len(groups))
        _watch(model, names, statistics, context)
    norms = {
        (name, axis): statistic.norms
        for name, by_axis in statistics.items()
        for axis, statistic in by_axis.items()
    }
    for (name, _), values in norms.items():
        if not np.isfinite(values).all():
            raise GraphoptError(f"{name!r} is not finite on {context.feeds.source}")
    return norms


def _key(use: Use) -> _Key:
    value, activation = use.activation, use.slot.activation
    if value is None or value.name is None or activation is None:
        raise ValueError(f"{use.node.name!r} has no activation to watch")
    return value.name, activation.axis


def _sizes(model: ir.Model, names: Iterable[str]) -> dict[str, int | None]:
    shapes = Shapes.of(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    values.update({value.name: value for value in model.graph.inputs})
    sizes: dict[str, int | None] = {}
    for name in names:
        shape, dtype = shapes.shape(values[name]), shapes.dtype(values[name])
        if shape is None or dtype is None:
            sizes[name] = None
            continue
        elements = math.prod(size if isinstance(size, int) else _BATCH for size in shape)
        sizes[name] = math.ceil(elements * dtype.itemsize)
    return sizes


def _watch(
    model: ir.Model,
    names: Sequence[str],
    statistics: Mapping[str, Mapping[int, ChannelSquares]],
    context: Context,
) -> None:
    assert context.feeds is not None
    fed = {value.name for value in model.graph.inputs}
    exposed = {value.name for value in model.graph.outputs}
    expose = [name for name in names if name not in fed and name not in exposed]
    session = Session(model, context.providers, expose=expose)
    watching = {name: tuple(statistics[name].values()) for name in names}
    observe(context.feeds.batches(_BATCH), session.run, watching)


def scored(weight: Weight, norms: Mapping[_Key, Array]) -> Scored:
    """Multiply a weight by the norms of its inputs; of several layers, their root sum of squares.

    Raises:
        GraphoptError: The layers of a shared weight read it along different axes.
    """
    source = Source(weight)
    squares = sum(np.square(_along(source, use, norms[_key(use)])) for use in weight.uses)
    return Scored(source, np.sqrt(np.asarray(squares)))


def _along(source: Source, use: Use, norms: Array) -> Array:
    axes, activation = use.axes, use.slot.activation
    if axes.input is None or activation is None:
        raise GraphoptError(f"{source.at!r} has no input channels for score 'wanda'")
    shape = [1] * len(source.shape)
    shape[axes.input] = source.shape[axes.input]
    if activation.groups == 1 or axes.output is None:
        return norms.reshape(shape)
    # Conv with groups: a run of output channels reads a run of input channels of its own.
    outputs = source.shape[axes.output]
    rows = norms.reshape(activation.groups, -1)[np.arange(outputs) * activation.groups // outputs]
    shape[axes.output] = outputs
    return (rows if axes.output < axes.input else rows.T).reshape(shape)
