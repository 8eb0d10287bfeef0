"""Operators in 16 bits, on the CPU too: what they compute in 32, rounded."""

from __future__ import annotations

import pytest
import torch
from against_onnx_runtime import model_of
from held_constants import module

UNARY = ["Abs", "Acosh", "Asinh", "Atan", "Ceil", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor"]
UNARY += ["Gelu", "HardSigmoid", "HardSwish", "Hardmax", "LeakyRelu", "Log", "LogSoftmax"]
UNARY += [
    "LpNormalization",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
]
UNARY += ["Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh"]
UNARY += ["Det", "Sign", "ThresholdedRelu"]
REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
UNARY += [f"Reduce{each}" for each in REDUCTIONS]
BINARY = ["Add", "Div", "Gemm", "MatMul", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"]
SIXTEEN = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("dtype", SIXTEEN)
@pytest.mark.parametrize("name", UNARY + BINARY)
def test_sixteen_bits(name: str, dtype: str) -> None:
    count = 1 if name in UNARY else 2
    inputs, used = ("X[4, 4] a, X[4, 4] b", "a, b") if count == 2 else ("X[4, 4] a", "a")
    graph = f"g ({inputs}) => (X[A, B] y) {{ y = {name}({used}) }}"
    half, single = (
        module(model_of(graph.replace("X", each), opset=24)) for each in (dtype, "float")
    )
    torch.manual_seed(12)
    # Acosh is of numbers from 1 on.
    arrays = [(torch.rand(4, 4) * 2 + 1).to(SIXTEEN[dtype]) for _ in range(count)]
    found = half(*arrays)
    assert found.dtype == SIXTEEN[dtype]
    wanted = single(*(each.float() for each in arrays))
    step = torch.finfo(SIXTEEN[dtype]).eps
    torch.testing.assert_close(found.float(), wanted, rtol=4 * step, atol=4 * step)
