"""What any runtime that follows ONNX can run: plain QDQ around the operators that sum products."""

from __future__ import annotations

import onnx_ir as ir

from passes.quantize.targets import ort_cpu
from passes.quantize.targets.rules import Kind, Rule, Target

TARGET = Target(
    name="generic",
    rules={
        **ort_cpu.RULES,
        "ConvTranspose": Rule(Kind.COMPUTE, (0, 1), bias=2),
        "Sub": Rule(Kind.ELEMENTWISE, None),
        "Div": Rule(Kind.ELEMENTWISE, None),
        "Softmax": Rule(Kind.ELEMENTWISE),
        "Tanh": Rule(Kind.ELEMENTWISE),
        "HardSwish": Rule(Kind.ELEMENTWISE),
    },
    activations=tuple(
        ir.DataType[name]
        for name in ("UINT8", "INT8", "UINT16", "INT16", "FLOAT8E4M3FN", "FLOAT8E5M2")
    ),
    weights=tuple(
        ir.DataType[name]
        for name in (
            "INT8",
            "UINT8",
            "INT16",
            "UINT16",
            "INT4",
            "UINT4",
            "FLOAT8E4M3FN",
            "FLOAT8E5M2",
        )
    ),
    source="the ONNX specification of QuantizeLinear and DequantizeLinear: what a runtime does not"
    " fuse, it computes on floats between them",
)
