"""The pass `quantize_weights`: weights stored as integers, activations left as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import Globs
from graphopt.rewrite.shapes import Shapes
from passes.quantize.weights import choice, opset, packed, storage
from passes.quantize.weights.candidates import Candidate, candidates
from passes.quantize.weights.sharing import Granularity

__all__ = ["QuantizeWeights"]

Dtype = Literal["int8", "uint8", "int4", "uint4", "int16", "uint16"]
FormWish = Literal["auto", "folded", "dequantize", "matmulnbits"]


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store weights as integers; layers go on computing with activations as they are.

    A weight w becomes q = saturate(round(w / scale) + zero_point), and readers get
    (q - zero_point) * scale (QuantizeLinear and DequantizeLinear of the ONNX specification; the
    range that is covered is that of the weight). How they get it is the form:

    - "folded": Mul(Cast(q), scale), with Sub(., zero_point) between where there is one. ONNX
      Runtime computes it once, when a session starts: float speed and float memory at run time, a
      quarter of the file. Any operator, main graph, bodies, functions.
    - "dequantize": DequantizeLinear in front of each MatMul and Gemm, which ONNX Runtime fuses into
      MatMulNBits by itself: it reads the integers, and rounds activations to int8 on the way (its
      accuracy level 4). See `choice.fused_objection` for when. In front of other layers, which it
      does not fuse, a DequantizeLinear runs every time.
    - "matmulnbits": com.microsoft's MatMulNBits itself, 4 or 8 bits, for MatMul and Gemm.
    - "auto": "dequantize" where that is fused and faster, else "folded"; see `choice`.

    A table whose rows a Gather picks keeps integers of 8 bits (ONNX Runtime picks none of 4) with
    one scale per row; rows are picked as integers and made real behind. The output layer that
    reads the same table is served from the same integers, as a product that is folded, or with
    "matmulnbits" as one of integers.

    Left as they are: biases and normalizations, weights that are quantized already or that the
    caller may override, weights under `min_size`, and what would not get smaller. The float weight
    never stays behind. A grid that `round_weights` has put a weight on is taken.

    Args:
        dtype: The integers: int8, uint8, int4, uint4, int16 or uint16.
        granularity: What shares a scale: all of a weight ("tensor"), an output channel ("channel"),
            or `block_size` neighbours along the input channels ("block"; where there are not more,
            a channel). None: "block" for 4 bits, else "channel".
        block_size: From 16 to 256.
        symmetric: Whether 0 is stored as the middle of the type.
        form: See above.
        include: Globs on names of layers or weights, alone or as `scope/name`.
        exclude: Globs that keep layers or weights out.
        op_types: Only weights of these operators, such as "MatMul"; None: of all.
        min_size: The fewest bytes of a weight that is touched.
        accuracy_level: With "matmulnbits", how activations are rounded on the way: 0 or 1 not at
            all, 2 to float16, 3 to bfloat16, 4 to int8 in blocks, several times as fast.

    Raises:
        GraphoptError: A parameter is out of range or does not go with another.
    """

    name: ClassVar[str] = "quantize_weights"
    effect: ClassVar[Effect] = Effect.LOSSY

    dtype: Dtype = "int8"
    granularity: Granularity | None = None
    block_size: int = 32
    symmetric: bool = True
    form: FormWish = "auto"
    include: Globs = "*"
    exclude: Globs = ""
    op_types: str | tuple[str, ...] | None = None
    min_size: int = 1024
    accuracy_level: int = 4

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name, choices in (
            ("dtype", get_args(Dtype)),
            ("granularity", (None, *get_args(Granularity))),
            ("form", get_args(FormWish)),
        ):
            chosen = getattr(self, name)
            if chosen not in choices:
                said = ", ".join(str(choice) for choice in choices)
                raise GraphoptError(
                    f"quantize_weights: {name} must be one of {said}, not {chosen!r}"
                )
        if not 16 <= self.block_size <= 256:
            raise GraphoptError(
                f"quantize_weights: block_size must be from 16 to 256, not {self.block_size}"
            )
        if self.min_size < 0:
            raise GraphoptError(
                f"quantize_weights: min_size must not be negative, got {self.min_size}"
            )
        if not 0 <= self.accuracy_level <= 4:
            raise GraphoptError(
                f"quantize_weights: accuracy_level must be from 0 to 4, not {self.accuracy_level}"
            )
        if self.form == "matmulnbits":
            self._check_packed()

    def _check_packed(self) -> None:
        if self.integers.bitwidth not in (4, 8):
            raise GraphoptError("quantize_weights: matmulnbits stores 4 or 8 bits")
        if self.block_size not in choice.FUSED_BLOCKS:
            sizes = ", ".join(map(str, choice.FUSED_BLOCKS))
            raise GraphoptError(f"quantize_weights: matmulnbits takes block_size {sizes}")

    @property
    def integers(self) -> ir.DataType:
        """The type of the integers."""
        return ir.DataType[self.dtype.upper()]

    @property
    def packing(self) -> packed.Wish:
        """What is asked of MatMulNBits."""
        return packed.Wish(self.block_size, self.accuracy_level)

    @property
    def sharing(self) -> Granularity:
        """What shares a scale."""
        if self.granularity is not None:
            return self.granularity
        return "block" if self.integers.bitwidth == 4 else "channel"

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per weight, behind the one that raises the opset where that must be."""
        context.cache.setdefault("quantize.reference", snapshot(model))
        _forget(model)
        try:
            yield from self._all(model, context)
        finally:
            _forget(model)

    def _all(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        found = list(candidates(model, self))
        if not found:
            wanted = self.include if isinstance(self.include, str) else ", ".join(self.include)
            yield Declined(wanted, "include, exclude and op_types leave no weight")
            return
        wanted_opset = max((c.opset for c in found if isinstance(c, Candidate)), default=1)
        raising = opset.raising(model, wanted_opset)
        if isinstance(raising, Rewrite):
            yield raising
            _forget(model)
            found = list(candidates(model, self))  # the raise makes new nodes
        elif raising is not None:
            found = list(candidates(model, self, at_most=raising))
        for done, item in enumerate(found):
            context.progress("quantize_weights", done, len(found))
            yield item if isinstance(item, Declined) else self._rewrite(model, item)

    def _rewrite(self, model: ir.Model, candidate: Candidate) -> Rewrite | Declined:
        weight, at = candidate.weight, candidate.weight.at
        try:
            grid = candidate.grid(symmetric=self.symmetric)
        except ValueError:
            return Declined(at, "it holds NaN or infinity")
        before, after = weight.tensor.nbytes, candidate.nbytes(symmetric=self.symmetric)
        return Rewrite(
            at=at,
            why=f"{candidate.words}: {before} bytes become {after}",
            apply=partial(storage.store, model, candidate, grid),
            details={
                "weight": at,
                "form": candidate.form,
                "dtype": candidate.dtype.name.lower(),
                "scales": grid.scale.size,
                "bytes before": before,
                "bytes after": after,
            },
        )


def _forget(model: ir.Model) -> None:
    Names.forget(model)
    Shapes.forget(model)
