"""What ONNX Runtime's CUDA provider runs as integers: next to nothing."""

from __future__ import annotations

import onnx_ir as ir

from passes.quantize.targets.ort_cpu import plain_gemm
from passes.quantize.targets.rules import Kind, Rule, Target

TARGET = Target(
    name="ort-cuda",
    rules={
        "MatMul": Rule(Kind.COMPUTE, (0, 1), float_output=True),
        "Gemm": Rule(Kind.COMPUTE, (0, 1), bias=2, float_output=True, when=plain_gemm),
    },
    activations=(ir.DataType.INT8,),
    weights=(ir.DataType.INT8,),
    symmetric=True,
    quantized_bias=False,
    source="ONNX Runtime's OperatorKernels.md for CUDAExecutionProvider: QuantizeLinear,"
    " DequantizeLinear, MatMulInteger and QAttention, no QLinear operators; QDQ runs as float",
)
