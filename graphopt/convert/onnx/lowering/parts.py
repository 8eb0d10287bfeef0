"""Operators that came late, where fewer or older operators say it than ONNX's definitions have."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.opset_changes import Edit, Impossible, Site

_WIDE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


def layer_normalization(site: Site) -> Edit | None:
    """Since opset 17: (x - mean) / sqrt(variance + epsilon) * scale + bias."""
    node = site.node
    if site.target >= 17:
        return None
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise Impossible("the operator came with opset 17, and its mean or deviation is read")
    dtype = _dtype(site)
    if dtype not in _WIDE:
        raise Impossible(f"the operator came with opset 17, and computes {dtype.name} in float32")
    axis, rank = site.value("axis", -1), site.rank(0)
    if rank is not None:
        axes = list(range(axis % rank, rank))
    elif axis == -1 and site.target >= 11:
        axes = [-1]
    else:
        raise Impossible("the rank of its input is not known")
    epsilon = _number(site.value("epsilon", 1e-5), dtype)

    def apply() -> None:
        x, scale = node.inputs[:2]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        mean = site.add("ReduceMean", [x], "mean", axes=axes, keepdims=1)
        centred = site.add("Sub", [x, mean], "centred")
        squared = site.add("Mul", [centred, centred], "squared")
        variance = site.add("ReduceMean", [squared], "variance", axes=axes, keepdims=1)
        shifted = site.add("Add", [variance, site.constant("epsilon", epsilon)], "shifted")
        deviation = site.add("Sqrt", [shifted], "deviation")
        normal = site.add("Div", [centred, deviation], "normal")
        last = site.add("Mul", [normal, scale], "scaled")
        if bias is not None:
            last = site.add("Add", [last, bias], "biased")
        _give_way(site, last)

    return apply


def thresholded_relu(site: Site) -> Edit | None:
    """Since opset 10: x where it is above alpha, and 0 elsewhere.

    Its definition has a Where, which came with opset 9. Here what is not above alpha is clipped
    to it and multiplied with 0, so that -inf gives 0, too; a NaN stays one.
    """
    node = site.node
    if site.target >= 9:
        return None
    if site.target < 7:
        raise Impossible("it came with opset 10, and before 7 nothing was broadcast")
    dtype = _dtype(site)
    alpha = site.value("alpha", 1.0)

    def apply() -> None:
        x = node.inputs[0]
        limit = site.constant("alpha", _number(alpha, dtype))
        clipped = site.add("Clip", [x], "clipped", min=alpha, max=math.inf)
        above = site.add("Greater", [x, limit], "above")
        gate = site.add("Cast", [above], "gate", to=int(dtype))
        _give_way(site, site.add("Mul", [clipped, gate], "product"))

    return apply


def _give_way(site: Site, last: ir.Value) -> None:
    """Let a part take the place of the node; what is known of the output is known of it."""
    old = site.node.outputs[0]
    site.facts.types.learn(last, site.facts.types(old))
    site.facts.shapes.learn(last, old)
    site.give_way(last)


def _dtype(site: Site, index: int = 0) -> ir.DataType:
    value = site.node.inputs[index]
    declared = None if value is None else value.dtype
    return declared if declared is not None else site.dtype(index)


def _number(number: float, dtype: ir.DataType) -> np.ndarray:
    return np.asarray(number, dtype.numpy())
