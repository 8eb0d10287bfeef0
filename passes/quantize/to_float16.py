"""`to_float16`: half the bytes, and on GPUs half the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.pipeline.contract import Context
from passes.quantize.precision.mixed import MixedPrecision


@dataclass(frozen=True)
class ToFloat16(MixedPrecision):
    """Compute in float16 what float16 holds; the rest stays float32, with casts between.

    Weights, Constant nodes, the dtype attributes of Cast, ConstantOfShape, random and other
    operators, and the interfaces of If, Loop, Scan and functions follow. What an operator takes in
    float32 only (the scales of Resize) stays so, and casts that meet their opposites go.

    Nothing overflows in silence. A node stays float32, and is declined with the reason, where

    - a constant that it reads is beyond 65504, or loses more than 1% of its largest number
      to underflow (or where it divides, and any of it becomes 0);
    - on the data of the run, a value that it reads or writes is beyond half of 65504;
    - there are no data, and it sums, raises to a power or exponentiates, or reads the results of
      that (carried on by additions, products and the like), as a written-out normalization does;
    - ONNX, in the opset of the model, has no such operator in float16.

    The weights of such nodes are stored as float16 behind a Cast all the same, where they fit.
    A mask that is added to attention scores before a Softmax (-3.4e38) is cut off at half of the
    largest number, 32752, so that a score can still be added to it.

    ONNX Runtime's CPU provider has few float16 kernels: it casts around the others by itself.

    Args:
        keep_io: Whether inputs and outputs stay float32. Without it, they become float16.
        include: Globs on names of nodes, of what they write or of constants they read; one that
            matches lets a node in.
        exclude: Globs that keep nodes out.
        op_types: Only these operators; None: all.
        target: "generic": what ONNX allows. "ort-cpu", "ort-cuda": what this provider has a
            float16 kernel for; other nodes stay float32 and are not declined: ONNX Runtime folds
            the casts of their weights when a session starts. "auto": "generic".

    Raises:
        GraphoptError: The target is none of those, or the installed ONNX Runtime lacks it.
    """

    name: ClassVar[str] = "to_float16"
    dtype: ClassVar[ir.DataType] = ir.DataType.FLOAT16
    least_opset: ClassVar[int] = 7

    def resolved(self, context: Context) -> str:
        """Return what `target="auto"` stands for."""
        del context
        return "generic" if self.target == "auto" else self.target
