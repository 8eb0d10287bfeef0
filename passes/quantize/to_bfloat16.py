"""`to_bfloat16`: half the bytes, with the range of float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.pipeline.contract import Context
from passes.quantize.precision.mixed import MixedPrecision


@dataclass(frozen=True)
class ToBFloat16(MixedPrecision):
    """Compute in bfloat16 what the target computes so; store the weights of the rest so.

    bfloat16 has the range of float32 and 8 bits of precision: nothing overflows. ONNX Runtime's
    CPU provider runs few operators in it and, other than for float16, refuses the rest. There a
    weight is stored as bfloat16 behind a Cast to float32, which ONNX Runtime folds when a session
    starts: half the file, float32's speed and memory. With target="generic" every node computes
    in bfloat16 that may in the opset of the model (convolutions and pools since 22), for runtimes
    that can.

    Args:
        keep_io: Whether inputs and outputs stay float32. Without it, they become bfloat16.
        include: Globs on names of nodes, of what they write or of constants they read; one that
            matches lets a node in.
        exclude: Globs that keep nodes out.
        op_types: Only these operators; None: all.
        target: "generic", "ort-cpu" or "ort-cuda"; "auto": that of the run's first provider.

    Raises:
        GraphoptError: The target is none of those, or the installed ONNX Runtime lacks it.
    """

    name: ClassVar[str] = "to_bfloat16"
    dtype: ClassVar[ir.DataType] = ir.DataType.BFLOAT16
    least_opset: ClassVar[int] = 13

    def resolved(self, context: Context) -> str:
        """Return what `target="auto"` stands for."""
        if self.target != "auto":
            return self.target
        first = context.providers[0].partition(":")[0].lower() if context.providers else "cpu"
        return "ort-cuda" if first.startswith("cuda") else "ort-cpu"
