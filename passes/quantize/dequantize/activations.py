"""Activations that are integers: floats flow where integers did."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import constant, is_op, opset
from graphopt.rewrite.selection import address
from graphopt.rewrite.uses import remove, remove_unread, replace
from passes.quantize.dequantize.operators import OPERATORS, Quantized
from passes.quantize.dequantize.regions import (
    Region,
    is_never_negative,
    moved,
    regions,
    saturation,
    understand,
)
from passes.quantize.dequantize.restored import base_name
from passes.quantize.dequantize.sites import Site, Wish, around


def rewrites(model: ir.Model, wish: Wish) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per region of integers."""
    for scope in list(scopes(model)):
        for region in list(regions(scope)):
            if not wish.chooses(scope, _named(region)):
                continue
            at = address(region.nodes[0], scope)
            understand(region)
            if region.refusal is not None and region.only_moves:
                continue  # rows of a table with a scale each, which `tables` knows
            if region.refusal is not None:
                yield Declined(at, region.refusal)
                continue
            count = len(region.nodes)
            why = f"integers between {count} {'node' if count == 1 else 'nodes'} become floats"
            yield Rewrite(at, why, partial(_restore, Site(model, scope), region))


def _named(region: Region) -> Iterator[ir.Node]:
    for node in region.nodes:
        yield from around(node)
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None:
                yield producer


def _restore(site: Site, region: Region) -> None:
    reals: dict[ir.Value, ir.Value] = {}
    gone: list[ir.Node] = []
    for node in region.nodes:
        if is_op(node, "QuantizeLinear"):
            data = node.inputs[0]
            if data is None:
                raise ValueError(f"{node.name!r} reads nothing")
            quantized = region.quantized[node.outputs[0]]
            reals[node.outputs[0]] = _saturated(site, node, data, quantized)
        elif is_op(node, "DequantizeLinear"):
            source = node.inputs[0]
            if source is None:
                raise ValueError(f"{node.name!r} reads nothing")
            replace(node.outputs[0], reals[source])
        elif node.op_type in OPERATORS:
            value = _computed(site, node, reals)
            quantized = region.quantized[node.outputs[0]]
            reals[node.outputs[0]] = _saturated(site, node, value, quantized)
        else:
            _move(site, node, region, reals)
            continue
        gone.append(node)
    for node in reversed(gone):
        remove(node)


def _move(site: Site, node: ir.Node, region: Region, reals: dict[ir.Value, ir.Value]) -> None:
    """Let a node that moves integers move floats."""
    data, dtype = moved(node), None
    for index, value in enumerate(node.inputs):
        if value not in data:
            continue
        if value not in reals and region.of_constants is not None:
            numbers = region.of_constants.real(value, None)
            if numbers is None:
                raise ValueError(f"{value.name!r} is no constant any more")
            reals[value] = site.constant(node, base_name(value.name), numbers)
        node.replace_input_with(index, reals[value])
        dtype = reals[value].dtype
    for output in node.outputs:
        output.type = None if dtype is None else ir.TensorType(dtype)
        reals[output] = output
    remove_unread(data)


def _computed(site: Site, node: ir.Node, reals: dict[ir.Value, ir.Value]) -> ir.Value:
    operator = OPERATORS[node.op_type]
    inputs: list[ir.Value | None] = []
    for operand in operator.reads(node):
        value = node.inputs[operand.data]
        if value is not None and value in reals:
            inputs.append(reals[value])
            continue
        quantized = Quantized.of(node, operand.scale, operand.scale + 1)
        numbers = None if value is None else quantized.real(value, operand.axis)
        if numbers is None or value is None:
            raise ValueError(f"an input of {node.name!r} is not known")
        base = base_name(value.name)
        inputs.append(site.constant(node, base, numbers))
    if operator.has_bias(node):
        bias = operator.real_bias(node)
        if bias is None:
            raise ValueError(f"the bias of {node.name!r} is not known")
        inputs.append(site.constant(node, f"{node.name or node.outputs[0].name}_bias", bias))
    made = site.node(node, operator.float_op, inputs, operator.attributes(node))
    return made.outputs[0]


def _saturated(site: Site, node: ir.Node, value: ir.Value, quantized: Quantized) -> ir.Value:
    """Put back a Clip that the saturation of integers has stood for."""
    bounds = saturation(quantized)
    if bounds is None or is_never_negative(value):
        return value
    scale = constant(quantized.scale)
    dtype = ir.DataType.FLOAT if scale is None else scale.dtype
    if opset(site.model, site.scope.function) < 11:
        names = zip(("min", "max"), bounds, strict=True)
        attributes = [ir.AttrFloat32(name, bound) for name, bound in names]
        return site.node(node, "Clip", [value], attributes).outputs[0]
    base = node.name or node.outputs[0].name or "saturated"
    ends = [
        site.constant(
            node, f"{base}_{name}", ir.Tensor(np.array(bound, dtype.numpy()), dtype=dtype)
        )
        for name, bound in zip(("low", "high"), bounds, strict=True)
    ]
    return site.node(node, "Clip", [value, *ends]).outputs[0]
