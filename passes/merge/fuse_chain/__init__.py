"""`fuse_chain`: linear behind linear becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.rounds import Applied
from graphopt.rewrite.selection import Globs
from passes.merge.fuse_chain.candidates import find
from passes.merge.fuse_chain.products import Products
from passes.merge.gain import weighed


@dataclass(frozen=True)
class FuseChain(Pass):
    """Multiply the weights of two linear operators, one behind the other, where that is less work.

    `(x A + a) B + b` is `x (A B) + (a B + b)`. MatMul and Gemm are covered (weights on one side),
    a Conv with a Conv of kernel 1 behind it, and a Conv of kernel 1 with any Conv behind it (where
    that pads, only without a bias between the two). Constant Adds behind MatMul are biases. Nothing
    else may read what is between them. `A B` is fused only where it multiplies less than `A` and
    `B` do: factorized layers of a low rank stay two. Weights are multiplied in double precision and
    rounded once, when they are read, from where they lie; nothing is fused where the product leaves
    the range of its type, or gets so small that rounding shows. Outputs stay equal up to the
    rounding of sums. The main graph, bodies and functions are covered.

    Scales and shifts between linear operators are folded by `cleanup`.

    Args:
        measure: Whether to fuse only where the model gets faster on the provider at hand, and
            slower at no batch size; otherwise wherever it is less work.
        include: Globs: only where the second node has such a name, output or weight.
        exclude: Globs: not there.
    """

    name = "fuse_chain"
    effect = Effect.EXACT
    measure: bool = True
    include: Globs = "*"
    exclude: Globs = ""

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not isinstance(self.measure, bool):
            raise GraphoptError(f"fuse_chain: measure is True or False, got {self.measure!r}")

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per pair that is less work as one, until there is none."""
        looked_at: set[str] = set()
        while True:
            applied = Applied()
            looking = partial(
                find,
                products=Products(),
                include=self.include,
                exclude=self.exclude,
                but=frozenset(looked_at),
            )
            for step in weighed(model, context, looking, measure=self.measure):
                if isinstance(step, Declined):
                    looked_at.add(step.at)
                    yield step
                else:
                    yield applied.watch(step)
            if not applied.any:
                return
