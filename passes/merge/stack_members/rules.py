"""Which operators can be stacked, and how."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite.constants import ONNX_DOMAINS
from passes.merge.stack_members import axes, convolution, elementwise, linear, recurrent, reshaping
from passes.merge.stack_members.case import Rule

RULES: dict[str, Rule] = {
    **axes.RULES,
    **convolution.RULES,
    **elementwise.RULES,
    **linear.RULES,
    **recurrent.RULES,
    **reshaping.RULES,
}


def can_stack(node: ir.Node) -> bool:
    """Whether there is a rule for an operator."""
    return node.domain in ONNX_DOMAINS and node.op_type in RULES and bool(node.outputs)


_WITHOUT_RULE = {
    **dict.fromkeys(
        ("DynamicQuantizeLinear", "DynamicQuantizeLSTM"),
        "its scale is that of one tensor: stacked, members would get one another's",
    ),
    **dict.fromkeys(
        ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QLinearAdd"),
        "members have scales and zero points of their own, of which it takes one",
    ),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear"),
        "with one scale for each lane, ONNX Runtime makes an integer product of it that takes one"
        " only, and fails",
    ),
}


def why_not(node: ir.Node) -> str | None:
    """Return why there is no rule for an operator, where one would be expected."""
    return None if can_stack(node) else _WITHOUT_RULE.get(node.op_type)


def takes_columns(node: ir.Node) -> bool:
    """Whether the rule for an operator knows the layout of columns."""
    return node.op_type in (*elementwise.RULES, *linear.RULES, "BatchNormalization")


def wanted_layout_ends(op_type: str) -> bool:
    """Whether an operator decides which layout is best for what it reads."""
    return op_type not in elementwise.RULES
