"""`cleanup`: what a model computes stays, what it does not need goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.rounds import Applied
from graphopt.rewrite.names import Names
from graphopt.rewrite.shapes import Shapes
from passes.cleanup import (
    branches,
    dead_code,
    elementwise_chains,
    exporter_notes,
    fold_affine,
    fold_constants,
    functions,
    gemm,
    identities,
    impossible_branches,
    initializers,
    known_shapes,
    layout_chains,
    legacy_inputs,
    moved_transposes,
    pads,
    subexpressions,
)

Rule = Callable[[ir.Model], Iterator[Rewrite | Declined]]
"""One kind of clean-up: walks the whole model and yields one rewrite per edit.

A rule looks at the model as it is now, with its own earlier rewrites applied. It edits nothing
itself, and may be stopped between any two rewrites.
"""


@dataclass(frozen=True)
class Cleanup(Pass):
    """Remove what a model does not need: its outputs stay as they are.

    Rules are applied in rounds until a whole round finds nothing: constants are folded, identities
    and operators without effect, dead code, repeated subexpressions, equal initializers, unused
    functions and opset imports go, branches that cannot run too; neighbours that one operator can
    replace are merged, Transposes move where that leaves fewer of them, and affine operators are
    folded into the weights beside them. What torch.onnx writes at each node to be debugged (its
    stack, its FX node) goes as well.
    The main graph, bodies and functions are covered. No round adds nodes, and folding adds at
    most `max_bytes` to the file: results that need more than the constants they replace are
    declined from then on. Quantized weights stay quantized: constants behind
    DequantizeLinear, or narrow integers behind Cast and Mul.

    Args:
        max_bytes: The most bytes by which folded constants may enlarge the model, in all.
        exporter_notes: Whether what torch.onnx writes to be debugged goes.
    """

    name = "cleanup"
    effect = Effect.EXACT
    max_bytes: int = 128 << 20
    exporter_notes: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        if isinstance(self.max_bytes, bool) or not isinstance(self.max_bytes, int):
            raise GraphoptError("cleanup: max_bytes must be a whole number of bytes")
        if self.max_bytes < 0:
            raise GraphoptError(f"cleanup: max_bytes must not be negative, got {self.max_bytes}")

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield the rewrites of all rules, round by round; then what the last round declined.

        What an earlier round declines, a later one may do: a weight is folded that was computed.
        """
        del context
        rules = self._rules(fold_constants.Growth(self.max_bytes))
        try:
            while True:
                applied, declined = Applied(), dict[Declined, None]()
                for rule in rules:
                    for step in rule(model):
                        if isinstance(step, Rewrite):
                            yield applied.watch(step)
                        else:
                            declined[step] = None
                if not applied.any:
                    yield from declined
                    return
                _forget(model)
        finally:
            _forget(model)

    def _rules(self, growth: fold_constants.Growth) -> tuple[Rule, ...]:
        notes = (exporter_notes.rewrites,) if self.exporter_notes else ()
        return (
            *notes,
            legacy_inputs.rewrites,
            dead_code.rewrites,
            partial(fold_constants.rewrites, growth=growth),
            branches.rewrites,
            impossible_branches.rewrites,
            identities.rewrites,
            known_shapes.rewrites,
            layout_chains.rewrites,
            moved_transposes.rewrites,
            elementwise_chains.rewrites,
            pads.rewrites,
            fold_affine.rewrites,
            gemm.rewrites,
            subexpressions.rewrites,
            initializers.rewrites,
            functions.rewrites,
        )


def _forget(model: ir.Model) -> None:
    Shapes.forget(model)
    Names.forget(model)
