"""`stack_members`: equal layers of several members run as one."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.rewrite.constants import opset
from graphopt.runtime.providers import parse_providers
from passes.merge.gain import Candidate, weighed
from passes.merge.stack_members.groups import Group, Style, groups, left_apart

_OLDEST = 11
"""Before opset 11 too many operators are written otherwise."""

_PARTS = (16, 6)
"""Lanes at a time that are tried where all at once do not gain: what these write fits a cache."""


@dataclass(frozen=True)
class StackMembers(Pass):
    """Run equal layers of several members as one, on one tensor that holds the values of all.

    *Lanes* are computations that are equal but for their weights: the same operators, attributes
    and shapes of weights, from values that they share or that correspond. Members may differ in
    parts: what is equal is stacked, whatever comes before or behind it; of different architectures
    each set of equal ones is stacked by itself. K lanes become:

    - a product with weights: one batch of products, or on a CPU a grouped 1x1 Conv whose pixels
      are the rows, [1, K * F, N, 1], which takes the bias and the activation along (ONNX Runtime
      refuses a Conv over no rows, so not behind operators that may select none; a caller's batch
      must have rows); small ones over a matrix that the lanes share are one product with weights
      side by side, [N, K * F];
    - Conv, BatchNormalization, pools: one over all channels, [N, K * C, H, W], in groups where
      lanes do not share the image;
    - operators by element, softmax, reductions, normalizations, attention: one on [K, N, ...] or
      [N, K, ...];
    - a sum, mean or weighted sum over the lanes, a maximum, a product, a concatenation: one
      reduction or reshaping; behind a last linear layer one product,
      [x_1 .. x_K] @ [c_1 W_1; ..; c_K W_K] + sum_k c_k b_k, with factors multiplied into the
      weights in float64.

    Outputs stay equal up to the order of sums. New weights are computed when they are read, from
    the old ones. The main graph and bodies are covered, from opset 11 on. Left alone are functions,
    whose shapes are not known, values of unknown shapes that would have to be stacked, and
    operators that have no rule, such as quantized ones, whose scales are the members' own. Small
    recurrent layers over a shared sequence become one with a block-diagonal recurrence.

    Args:
        measure: Whether to stack only where the model gets faster on the provider at hand, and
            slower at no batch size. All lanes are tried at once, then fewer at a time.
            Otherwise whatever saves nodes is stacked.
        lanes: The most lanes that one operator does the work of; None: all.
    """

    name = "stack_members"
    effect = Effect.EXACT
    measure: bool = True
    lanes: int | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not isinstance(self.measure, bool):
            raise GraphoptError(f"stack_members: measure is True or False, got {self.measure!r}")
        if self.lanes is not None and (isinstance(self.lanes, bool) or self.lanes < 2):
            raise GraphoptError(f"stack_members: lanes is 2 or more, got {self.lanes!r}")

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per group of lanes that gains."""
        columns = parse_providers(context.providers)[0].is_cpu
        sizes = (self.lanes, *(_PARTS if self.measure and self.lanes is None else ()))
        declined: dict[str, Declined] = {}
        ends: frozenset[str] | None = None
        for most in sizes:
            search = _Search(Style(columns, most), ends)
            for step in weighed(model, context, search.find, measure=self.measure):
                if isinstance(step, Rewrite):
                    declined.pop(step.at, None)
                    yield step
                else:
                    declined.setdefault(step.at, step)
            ends = search.wider_than(declined, _PARTS)
            if not ends:
                break
        yield from declined.values()


class _Search:
    """Finds groups of lanes.

    Args:
        style: How they are to be stacked.
        ends: Where the first lane of a group must end; None: anywhere.
    """

    def __init__(self, style: Style, ends: frozenset[str] | None) -> None:
        self._style = style
        self._ends = ends
        # No groups: those of copies that are tried would keep the copies alive.
        self._found: dict[str, tuple[int, tuple[str, ...]]] = {}

    def find(self, model: ir.Model) -> Iterator[Candidate | Declined]:
        """Yield what could be stacked."""
        version = opset(model)
        if version < _OLDEST:
            return
        for scope in list(scopes(model)):
            if self._ends is None:
                for at, why in left_apart(model, scope):
                    yield Declined(at, why)
            if scope.function is not None:
                continue
            for group in groups(model, scope, version, self._style):
                if self._ends is None or group.at in self._ends:
                    self._found[group.at] = group.lanes, group.ends
                    yield _judged(group)

    def wider_than(self, declined: Container[str], parts: Sequence[int]) -> frozenset[str]:
        """Return where the lanes of those groups end that could be tried in smaller parts."""
        most = self._style.most
        smaller = [size for size in parts if most is None or size < most]
        return frozenset(
            end
            for at, (lanes, ends) in self._found.items()
            if at in declined and smaller and lanes > smaller[0]
            for end in ends
        )


def _judged(group: Group) -> Candidate | Declined:
    details = {"lanes": group.lanes, "nodes before": group.before, "nodes after": group.after}
    if group.after >= group.before:
        return Declined(group.at, f"{group.why}: nothing saved", details)
    return Candidate(group.at, group.why, group.kind, group.apply, details)
