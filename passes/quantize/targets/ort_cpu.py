"""What ONNX Runtime's CPU provider runs as integers."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite.constants import constant, scalar
from graphopt.rewrite.shapes import Shapes
from passes.quantize.targets.rules import Kind, Rule, Target, one_output, only


def plain_gemm(node: ir.Node, _: Shapes) -> str | None:
    """Hold for a Gemm that QGemm computes: a constant B, a bias that is not scaled."""
    if constant(node.inputs[0]) is not None:
        return "Gemm with a constant A"
    if (node.attributes.get_float("alpha", 1.0) or 0.0) != 1.0:
        # QGemm adds a bias in front of the factor.
        return "Gemm with a factor"
    biased = len(node.inputs) > 2 and node.inputs[2] is not None
    scaled = (node.attributes.get_float("beta", 1.0) or 0.0) != 1.0
    return "Gemm with a scaled bias" if biased and scaled else None


def constant_padding(node: ir.Node, _: Shapes) -> str | None:
    """Hold for a Pad whose value is known."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    return None if scalar(node.inputs[2]) is not None else "Pad with a computed value"


_LAYOUT = Rule(Kind.SAME, backward=True)
_PICKING = Rule(Kind.SAME)

RULES = {
    "Conv": Rule(Kind.COMPUTE, (0, 1), bias=2),
    "Gemm": Rule(Kind.COMPUTE, (0, 1), bias=2, float_output=True, when=plain_gemm),
    "MatMul": Rule(Kind.COMPUTE, (0, 1), float_output=True),
    "Add": Rule(Kind.ELEMENTWISE, None),
    "Mul": Rule(Kind.ELEMENTWISE, None, factor=True),
    "HardSigmoid": Rule(Kind.RELABEL),
    "AveragePool": Rule(Kind.ELEMENTWISE),
    "GlobalAveragePool": Rule(Kind.ELEMENTWISE),
    "Sigmoid": Rule(Kind.ELEMENTWISE),
    "LeakyRelu": Rule(Kind.ELEMENTWISE),
    "Concat": Rule(Kind.SAME, None, backward=True),
    "MaxPool": Rule(Kind.SAME, when=one_output),
    "Resize": Rule(Kind.SAME, when=only("mode", "nearest", default="nearest")),
    "Pad": Rule(Kind.SAME, integers=True, when=constant_padding),
    "Reshape": _LAYOUT,
    "Transpose": _LAYOUT,
    "Squeeze": _LAYOUT,
    "Unsqueeze": _LAYOUT,
    "Flatten": _LAYOUT,
    "DepthToSpace": _LAYOUT,
    "SpaceToDepth": Rule(Kind.SAME, integers=True, backward=True),
    "Identity": _LAYOUT,
    "Slice": _PICKING,
    "Split": _PICKING,
    "Gather": _PICKING,
    "GatherElements": _PICKING,
    "Expand": _PICKING,
    "Tile": _PICKING,
    "ReduceMax": _PICKING,
    "Relu": Rule(Kind.CLAMP),
    "Clip": Rule(Kind.CLAMP),
}

TARGET = Target(
    name="ort-cpu",
    providers=("cpu",),
    rules=RULES,
    activations=(ir.DataType.UINT8, ir.DataType.INT8),
    weights=(ir.DataType.INT8, ir.DataType.UINT8),
    half=False,
    # Its fusion makes a QGemm of them, which then does not take them.
    refused=(ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2),
    source="ONNX Runtime 1.31.1: every operator was quantized alone and read back from the"
    " optimized model (tests/passes/quantize/test_targets_ort_cpu.py does it again)",
)
