"""Which weights are to be quantized, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.pipeline.contract import Declined
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.layers import Role
from graphopt.rewrite.opsets import QUANTIZE_BLOCKS, QUANTIZE_CHANNELS
from graphopt.rewrite.selection import selects
from graphopt.rewrite.weights import Unusable, Use, Weight, weights
from passes.quantize.weights import choice, packed, rows, tied
from passes.quantize.weights.choice import Form, form_for
from passes.quantize.weights.readers import products
from passes.quantize.weights.sharing import Sharing, grid_of, is_table, sharing

if TYPE_CHECKING:
    from passes.quantize.weights import QuantizeWeights

BROADCASTING = 7
"""The opset from which on Mul and Sub broadcast as NumPy does."""

_ROLES = (Role.WEIGHT, Role.EMBEDDING)
_REALS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Candidate:
    """A weight that is to be quantized.

    Args:
        weight: The weight.
        dtype: Its integers.
        shared: What shares a scale.
        form: How readers get real numbers.
        packing: What is asked of MatMulNBits.
    """

    weight: Weight
    dtype: ir.DataType
    shared: Sharing
    form: Form
    packing: packed.Wish

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return tuple(int(size) for size in self.weight.tensor.shape.numpy())

    @property
    def opset(self) -> int:
        """The lowest version of ONNX's operators that the form can be written in."""
        if self.dtype.bitwidth == 4 and self.form != "matmulnbits":
            return QUANTIZE_BLOCKS
        if self.form == "dequantize":
            blocks = self.shared.block_size or self.dtype.bitwidth != 8
            return QUANTIZE_BLOCKS if blocks else QUANTIZE_CHANNELS
        return BROADCASTING

    @property
    def words(self) -> str:
        """What becomes of the weight, in words."""
        scales = "a scale"
        if self.shared.axis is not None:
            scales = f"scales along axis {self.shared.axis}"
        if self.shared.block_size:
            scales = f"a scale per {self.shared.block_size} along axis {self.shared.axis}"
        return f"{self.dtype.name.lower()} with {scales}, {self.form}"

    def grid(self, *, symmetric: bool) -> Grid:
        """Return the grid; reads the weight. Raises ValueError for NaN and infinity."""
        return grid_of(self.weight, self.shared, self.dtype, symmetric=symmetric)

    def nbytes(self, *, symmetric: bool) -> int:
        """Count the bytes that take the place of the weight's, without names and nodes."""
        size, bits = self.weight.tensor.size, int(self.dtype.bitwidth)
        scales = self.shared.count(self.shape)
        if self.form == "matmulnbits" and not self.shared.block_size:
            scales = -(-size // self.packing.block_size)
        has_points = not symmetric or not self.dtype.is_signed()
        wide = self.weight.dtype == ir.DataType.DOUBLE
        points = -(-scales * bits // 8) if has_points else 0
        return -(-size * bits // 8) + scales * (8 if wide else 4) + points


def candidates(
    model: ir.Model, wish: QuantizeWeights, *, at_most: int | None = None
) -> Iterator[Candidate | Declined]:
    """Find the weights that a pass is asked for.

    Args:
        model: The model.
        wish: The pass.
        at_most: The opset that cannot be exceeded; None: it can be raised.
    """
    for found in list(weights(model, roles=_ROLES)):
        if isinstance(found, Unusable):
            yield Declined(found.at, found.why)
            continue
        chosen = [_is_chosen(use, found, wish) for use in found.uses]
        if not any(chosen):
            continue
        if not all(chosen):
            other = found.uses[chosen.index(False)]
            yield Declined(found.at, f"shared by {_name(other)}, which is left out")
            continue
        yield _candidate(model, found, wish, at_most)


def _is_chosen(use: Use, weight: Weight, wish: QuantizeWeights) -> bool:
    op_types = (wish.op_types,) if isinstance(wish.op_types, str) else wish.op_types
    names = (weight.name, weight.at)
    return selects(use.node, use.scope, wish.include, wish.exclude, op_types, names=names)


def _name(use: Use) -> str:
    return use.scope.at(use.node.name or use.node.outputs[0].name)


def _candidate(
    model: ir.Model, weight: Weight, wish: QuantizeWeights, at_most: int | None
) -> Candidate | Declined:
    why = _objection(weight, wish.min_size)
    if why is not None:
        return Declined(weight.at, why)
    dtype = wish.integers
    if is_table(weight) and dtype.bitwidth == 4:
        dtype = ir.DataType.INT8 if dtype.is_signed() else ir.DataType.UINT8
    shared = sharing(weight, wish.sharing, wish.block_size)
    form = form_for(weight, dtype, shared) if wish.form == "auto" else wish.form
    if form == "matmulnbits" and is_table(weight) and not _ties(model, weight, dtype, shared, wish):
        form = "folded"
    candidate = Candidate(weight, dtype, shared, form, wish.packing)
    why = _form_objection(candidate)
    if why is None and at_most is not None and candidate.opset > at_most:
        if wish.form == "auto" and form != "folded":
            candidate = replace(candidate, form="folded")
        if candidate.opset > at_most:
            why = f"it needs opset {candidate.opset}, and the model cannot be raised to it"
    before, after = weight.tensor.nbytes, candidate.nbytes(symmetric=wish.symmetric)
    if why is None and after >= before:
        why = f"{after} bytes would take the place of {before}"
    return candidate if why is None else Declined(weight.at, why)


def _objection(weight: Weight, min_size: int) -> str | None:
    tensor = weight.tensor
    if weight.quantization is not None or tensor.dtype.is_integer():
        return f"it is quantized already ({tensor.dtype.name})"
    if tensor.dtype not in _REALS:
        return f"{tensor.dtype.name} is left as it is"
    if tensor.nbytes < min_size:
        return f"its {tensor.nbytes} bytes are fewer than min_size, {min_size}"
    return rows.objection(weight) if is_table(weight) else None


def _form_objection(candidate: Candidate) -> str | None:
    weight, form = candidate.weight, candidate.form
    if form == "matmulnbits":
        found = products(weight)
        if isinstance(found, str):
            return found
        return choice.packed_objection(found, candidate.dtype, candidate.shared)
    if form == "dequantize" and weight.dtype not in choice.DEQUANTIZED:
        return f"DequantizeLinear gives no {weight.dtype.name}"
    return None


def _ties(
    model: ir.Model, weight: Weight, dtype: ir.DataType, shared: Sharing, wish: QuantizeWeights
) -> bool:
    """Whether a table can be packed for its products, and its rows be picked all the same."""
    found = products(weight)
    if isinstance(found, str) or choice.packed_objection(found, dtype, shared) is not None:
        return False
    return tied.objection(model, weight, found, wish.block_size) is None
