"""What no rule has turned back."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined
from graphopt.rewrite.constants import is_op
from graphopt.rewrite.selection import address
from passes.quantize.dequantize.sites import Wish

_QUANTIZED = (
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
)


def declined(model: ir.Model, wish: Wish, known: Collection[str]) -> Iterator[Declined]:
    """Yield one for each operator on integers of ONNX's own that is left.

    Args:
        model: The model.
        wish: What is asked for.
        known: The places that have been declined with a reason of their own.
    """
    for scope in scopes(model):
        for node in scope.graph:
            at = address(node, scope)
            if is_op(node, *_QUANTIZED) and at not in known and wish.chooses(scope, [node]):
                yield Declined(at, f"this {node.op_type} is in no pattern known here")
