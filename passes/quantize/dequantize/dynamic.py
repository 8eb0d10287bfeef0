"""Products of integers whose activations are quantized as the model runs.

    DynamicQuantizeLinear(x) -> MatMulInteger -> Cast -> Mul(scale of x * scale of the weight)

becomes MatMul(x, weight), and ConvInteger a Conv.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import Array, constant, is_op
from graphopt.rewrite.selection import address
from graphopt.rewrite.uses import only_user
from passes.quantize.dequantize.reals import grid_from, real
from passes.quantize.dequantize.restored import base_name
from passes.quantize.dequantize.sites import Site, Wish, around, take_over

_FLOAT_OF = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


@dataclass(frozen=True)
class _Product:
    """A product of integers.

    Args:
        node: MatMulInteger or ConvInteger.
        last: The node behind which its result is real.
        data: What was quantized.
        stored: The weight.
        points: Its zero points.
        scale: Its scales, (columns,) or one.
    """

    node: ir.Node
    last: ir.Node
    data: ir.Value
    stored: ir.TensorProtocol
    points: ir.TensorProtocol | None
    scale: Array


def rewrites(model: ir.Model, wish: Wish) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per product."""
    for scope in list(scopes(model)):
        for node in list(scope.graph):
            if node.graph is None or not is_op(node, *_FLOAT_OF):
                continue
            if not wish.chooses(scope, around(node)):
                continue
            found = _read(node)
            at = address(node, scope)
            if isinstance(found, str):
                yield Declined(at, found)
            else:
                why = f"{node.op_type} of a dynamically quantized {found.data.name}"
                yield Rewrite(at, why, partial(_restore, Site(model, scope), found))


def _read(node: ir.Node) -> _Product | str:
    source = None if node.inputs[0] is None else node.inputs[0].producer()
    if source is None or not is_op(source, "DynamicQuantizeLinear") or source.inputs[0] is None:
        return "its first input is not quantized by a DynamicQuantizeLinear"
    if len(node.inputs) < 3 or node.inputs[2] is not source.outputs[2]:
        return "it does not take the zero point of its first input"
    stored = constant(node.inputs[1])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    points = constant(given)
    if stored is None or (given is not None and points is None):
        return "its weight or zero point is computed"
    found = _scales(node, source.outputs[1])
    if found is None:
        return "what follows does not scale it"
    last, scale = found
    channels = int(stored.shape.numpy()[-1 if node.op_type == "MatMulInteger" else 0])
    if scale.size not in (1, channels):
        return "its scales lie along no axis of the weight"
    return _Product(node, last, source.inputs[0], stored, points, scale)


def _scales(node: ir.Node, of_data: ir.Value) -> tuple[ir.Node, Array] | None:
    """Follow Cast and Mul until the scales of both factors were multiplied."""
    cast = only_user(node.outputs[0])
    if cast is None or not is_op(cast, "Cast"):
        return None
    last, factors, seen = cast, list[Array](), 0
    while True:
        user = only_user(last.outputs[0])
        if user is None or not is_op(user, "Mul") or seen:
            break
        other = user.inputs[1] if user.inputs[0] is last.outputs[0] else user.inputs[0]
        flat = _factors(other, of_data)
        if flat is None:
            break
        seen += flat[0]
        factors += flat[1]
        last = user
    if seen != 1:
        return None
    user = only_user(last.outputs[0])
    if not factors and user is not None and is_op(user, "Mul"):
        other = user.inputs[1] if user.inputs[0] is last.outputs[0] else user.inputs[0]
        tensor = constant(other)
        if tensor is not None:
            last, factors = user, [tensor.numpy()]
    scale = np.asarray(1.0, np.float32)
    for factor in factors:
        scale = scale * factor if scale.size > 1 or factor.size > 1 else scale * factor.reshape(())
    return last, scale.astype(np.float32)


def _factors(value: ir.Value | None, of_data: ir.Value) -> tuple[int, list[Array]] | None:
    """Return how often a product holds the scale of the data, and its constants."""
    if value is of_data:
        return 1, []
    tensor = constant(value)
    if tensor is not None:
        return 0, [tensor.numpy()]
    producer = None if value is None else value.producer()
    if producer is None or not is_op(producer, "Mul"):
        return None
    parts = [_factors(factor, of_data) for factor in producer.inputs]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return sum(count for count, _ in known), [array for _, arrays in known for array in arrays]


def _restore(site: Site, found: _Product) -> None:
    is_conv = found.node.op_type == "ConvInteger"
    axis = 0 if is_conv else len(found.stored.shape) - 1
    scale = ir.Tensor(found.scale.reshape(-1) if found.scale.size > 1 else found.scale)
    grid = grid_from(found.stored, scale, found.points, axis)
    base = base_name(found.stored.name)
    value = site.constant(found.node, base, real(found.stored, grid))
    op_type = _FLOAT_OF[found.node.op_type]
    inputs: list[ir.Value | None] = [found.data, value]
    attributes = list(found.node.attributes.values())
    take_over(found.last, site.node(found.last, op_type, inputs, attributes).outputs)
