"""What TensorRT fuses from QDQ: explicit quantization."""

from __future__ import annotations

import onnx_ir as ir

from passes.quantize.targets.ort_cpu import constant_padding
from passes.quantize.targets.rules import Kind, Rule, Target, one_output, only

_LAYOUT = Rule(Kind.SAME, backward=True)

TARGET = Target(
    name="tensorrt",
    rules={
        "Conv": Rule(Kind.COMPUTE, (0, 1), bias=2),
        "ConvTranspose": Rule(Kind.COMPUTE, (0, 1), bias=2),
        "Gemm": Rule(Kind.COMPUTE, (0, 1), bias=2, float_output=True),
        "MatMul": Rule(Kind.COMPUTE, (0, 1), float_output=True),
        # Both summands are read as integers, so that the sum runs on them too.
        "Add": Rule(Kind.ELEMENTWISE, None),
        "AveragePool": Rule(Kind.ELEMENTWISE),
        "GlobalAveragePool": Rule(Kind.ELEMENTWISE),
        "MaxPool": Rule(Kind.SAME, when=one_output),
        "Concat": Rule(Kind.SAME, None, backward=True),
        "Resize": Rule(Kind.SAME, when=only("mode", "nearest", default="nearest")),
        "Pad": Rule(Kind.SAME, when=constant_padding),
        **dict.fromkeys(
            ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"), _LAYOUT
        ),
        "Slice": Rule(Kind.SAME),
        "Split": Rule(Kind.SAME),
        "Gather": Rule(Kind.SAME),
    },
    activations=(ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN),
    weights=(ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN),
    symmetric=True,
    quantized_bias=False,
    clamps=True,
    source="NVIDIA TensorRT developer guide, 'Working with Quantized Types', explicit quantization"
    " and 'Q/DQ layer-placement recommendations': scales only (zero point 0), one scale per"
    " activation, per output channel for weights, no Q/DQ on biases, both inputs of a residual Add"
    " quantized, Q/DQ around what commutes with them",
)
