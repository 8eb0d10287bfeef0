"""The pass `dequantize`: back to floats, with exactly the values that the integers stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import Globs
from passes.quantize.dequantize import activations, dynamic, leftovers, packed, stored, tables
from passes.quantize.dequantize.restored import Restored
from passes.quantize.dequantize.sites import Wish

__all__ = ["Dequantize"]


@dataclass(frozen=True)
class Dequantize(Pass):
    """Turn a quantized model back into one of floats.

    Weights become what their integers stand for, (q - zero_point) * scale, computed in the type of
    the scale as DequantizeLinear does: behind DequantizeLinear (for a tensor, channel or block),
    behind Cast, Sub and Mul, in QLinearConv, QLinearMatMul, ConvInteger and MatMulInteger, in
    com.microsoft's MatMulNBits, DynamicQuantizeMatMul and DynamicQuantizeLSTM, and as tables whose
    rows a Gather picks.

    Activations are not rounded any more: QuantizeLinear and DequantizeLinear around them go, what
    moves integers between them moves floats, and operators on integers become their equals on
    floats. Where integers cannot stand for a negative number, and nothing in front of them rules
    one out, a Clip to their range stays: quantizers take a Relu away there.

    What other operators do with integers is declined by name, with the region around it.

    Args:
        include: Globs on names of nodes, of what they read and write, alone or as `scope/name`; one
            that matches a node, or one beside it, lets it in.
        exclude: Globs that keep nodes out.
        op_types: Only at nodes of these operators; None: at all.
    """

    name: ClassVar[str] = "dequantize"
    effect: ClassVar[Effect] = Effect.LOSSY

    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per weight, product and region of integers."""
        op_types = (self.op_types,) if isinstance(self.op_types, str) else self.op_types
        wish = Wish(self.include, self.exclude, op_types)
        restored = Restored()
        rules: tuple[Callable[[ir.Model, Wish], Iterator[Rewrite | Declined]], ...] = (
            dynamic.rewrites,
            packed.rewrites,
            activations.rewrites,
            partial(tables.rewrites, restored=restored),
            partial(stored.rewrites, restored=restored),
        )
        declined: set[str] = set()
        Names.forget(model)
        try:
            for done, rule in enumerate(rules):
                context.progress("dequantize", done, len(rules))
                for step in rule(model, wish):
                    declined.update({step.at} if isinstance(step, Declined) else ())
                    yield step
            yield from leftovers.declined(model, wish, declined)
        finally:
            Names.forget(model)
