"""Products of matrices, and what else takes tensors for matrices."""

from __future__ import annotations

import onnx_ir as ir
import torch

from graphopt.training.call import Call
from graphopt.training.operators.casts import converted
from graphopt.training.operators.quantization import saturated
from graphopt.training.operators.registry import operator
from graphopt.training.operators.zero_points import centred
from graphopt.training.unsigned import modular


def matrix_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply matrices of any type, as numpy.matmul does."""
    return modular(_device_product, a, b)


def _device_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.is_floating_point() or a.device.type == "cpu":
        return torch.matmul(a, b)
    # PyTorch multiplies matrices of integers on the CPU alone.
    return product_by_sums(a, b)


def product_by_sums(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply matrices by what all devices compute of all types, with much memory."""
    columns = b.unsqueeze(-1) if b.ndim == 1 else b
    if a.ndim > 1:
        columns = columns.unsqueeze(-3)
    found = (a.unsqueeze(-1) * columns).sum(-2, dtype=a.dtype)
    return found.squeeze(-1) if b.ndim == 1 else found


@operator("MatMul")
def matmul(_: Call, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply matrices."""
    return matrix_product(a, b)


@operator("Gemm")
def gemm(
    call: Call, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute `alpha A B + beta C` of matrices, which may be transposed."""
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    a, b = transposed_operands(call, a, b)
    if a.is_floating_point() and c is not None:
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)
    found = _scaled(matrix_product(a, b), alpha)
    return found if c is None else modular(torch.add, found, _scaled(c, beta))


def transposed_operands(
    call: Call, a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Transpose those of two matrices that transA and transB name."""
    return (
        a.T if call.integer("transA", 0) else a,
        b.T if call.integer("transB", 0) else b,
    )


def _scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
    if factor == 1:
        return x
    if x.is_floating_point():
        return x * factor
    if factor == int(factor):
        return modular(lambda each: each * int(factor), x)
    return (x.to(torch.float64) * factor).to(x.dtype)


@operator("Einsum")
def einsum(call: Call, *inputs: torch.Tensor) -> torch.Tensor:
    """Multiply and sum along the axes that letters name."""
    equation = call.text("equation")

    def compute(*operands: torch.Tensor) -> torch.Tensor:
        # PyTorch sums small integers up in int64.
        return torch.einsum(equation, *operands).to(operands[0].dtype)

    return modular(compute, *inputs)


@operator("Det")
def determinant(_: Call, x: torch.Tensor) -> torch.Tensor:
    """Return the determinants of square matrices."""
    wide = x.to(torch.float32) if x.dtype.itemsize < 4 else x
    return torch.det(wide).to(x.dtype)


@operator("MatMulInteger")
def matmul_integer(
    _: Call,
    a: torch.Tensor,
    b: torch.Tensor,
    a_zero_point: torch.Tensor | None = None,
    b_zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply matrices of 8-bit integers."""
    rows = None if a_zero_point is None else _by_row(a_zero_point)
    found = torch.matmul(centred(a, rows), centred(b, b_zero_point))
    return found.to(torch.int64).to(torch.int32)


def _by_row(x: torch.Tensor) -> torch.Tensor:
    """Let a number for each row of a matrix fit it; other ones fit, or are for its columns."""
    return x.unsqueeze(-1) if x.ndim == 1 and x.numel() > 1 else x


@operator("QLinearMatMul")
def quantized_matmul(
    call: Call,
    a: torch.Tensor,
    a_scale: torch.Tensor,
    a_zero_point: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    b_zero_point: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor,
) -> torch.Tensor:
    """Multiply quantized matrices, and quantize the product."""
    whole = torch.matmul(centred(a, _by_row(a_zero_point)), centred(b, b_zero_point))
    left, right, out = (each.to(torch.float32) for each in (a_scale, b_scale, y_scale))
    # The factor first, as ONNX Runtime does.
    real = whole.to(torch.float32) * (_by_row(left) * right / _by_row(out))
    zero_point = _by_row(y_zero_point).to(torch.float32)
    target = call.output_type() or ir.DataType.UINT8
    if target.is_floating_point():
        return converted(real + zero_point, target)
    return saturated(torch.round(real) + zero_point, call, y_zero_point.dtype)
