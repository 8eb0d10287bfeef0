"""Which form of storage runs fastest, where nobody asks for one."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from graphopt.rewrite.weights import Weight
from passes.quantize.weights.readers import Products, products
from passes.quantize.weights.sharing import Sharing, is_table

Form = Literal["folded", "dequantize", "matmulnbits"]

FUSED_BLOCKS = (16, 32, 64, 128, 256)
"""The block sizes with which ONNX Runtime fuses a DequantizeLinear and a product."""

DEQUANTIZED = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""What a DequantizeLinear gives."""

FUSED_ELEMENTS = 1 << 19
"""The fewest elements of a weight whose fused product is faster than the one of floats.

Float divided by fused latency on one core with AVX512-VNNI, ONNX Runtime 1.31, paired medians, for
1, 8 and 32 rows; int8 with a scale per channel, and in blocks of 128:

                    channel              blocks of 128
    64 x 64         0.9   0.8   0.4      1.0   0.8   0.5
    384 x 384       0.9   0.9   0.7      1.2   0.9   1.0
    512 x 512       1.6   0.7   0.8      1.3   0.8   1.1
    384 x 1536      4.5   1.3   1.0      4.6   3.1   1.7
    1536 x 384      4.3   1.5   2.0      4.4   1.7   1.4
    2048 x 2048     6.5   1.2   1.6      6.4   1.8   1.9

Small weights stay in a cache, where floats are as fast; beyond it reading a quarter of the bytes
pays for few rows, and for many it costs nothing. Blocks of 32 lie between both columns, and int4 is
as fast as int8 or faster. Folded weights take as long as floats: the session computes them once.
"""


def form_for(weight: Weight, dtype: ir.DataType, shared: Sharing) -> Form:
    """Choose the form that runs fastest.

    - "dequantize" for matrices that ONNX Runtime fuses into MatMulNBits and that are large enough;
    - "folded" for all else: the session computes with floats, as before.
    """
    found = products(weight)
    fuses = isinstance(found, Products) and fused_objection(weight, found, dtype, shared) is None
    return "dequantize" if fuses and weight.tensor.size >= FUSED_ELEMENTS else "folded"


def fused_objection(
    weight: Weight, found: Products, dtype: ir.DataType, shared: Sharing
) -> str | None:
    """Say why ONNX Runtime would not fuse products with the DequantizeLinear in front of them.

    Its rules as measured with 1.31: integers as in `packed_objection`, stored as (summed, columns),
    and read by this one DequantizeLinear alone.
    """
    if len(found.uses) > 1 or is_table(weight):
        return "ONNX Runtime fuses no product with integers that another node reads too"
    return packed_objection(found, dtype, shared)


def packed_objection(found: Products, dtype: ir.DataType, shared: Sharing) -> str | None:
    """Say why MatMulNBits cannot compute some products.

    It takes integers of 4 or 8 bits with one scale, one per column, or blocks of 16 to 256 summed
    elements (a power of two; the last block may be shorter), and floats of 32 or 16 bits.
    """
    if dtype.bitwidth not in (4, 8):
        return f"MatMulNBits takes no {dtype.name}"
    if found.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return f"MatMulNBits takes no {found.dtype.name}"
    if shared.block_size and shared.block_size not in FUSED_BLOCKS:
        return f"MatMulNBits takes no blocks of {shared.block_size}"
    return None
