"""Which layers of a model can take which forms: the passes themselves are asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Declined, Pass, Rewrite
from graphopt.rewrite.selection import address
from passes.quantize.plan.applying import applied
from passes.quantize.plan.forms import Form, Layer
from passes.quantize.plan.kinds import kind, weight_bytes


def addresses(model: ir.Model) -> list[str]:
    """Return the address of every node, once, in the order of the graph."""
    return list(dict.fromkeys(at for at, _ in _nodes(model)))


def survey(
    model: ir.Model, passes: Iterable[tuple[Form, Pass]], context: Context
) -> tuple[tuple[Layer, ...], tuple[Declined, ...]]:
    """Return the layers that can take a form, in order, and where no form can be taken and why.

    Args:
        model: Stays as it is.
        passes: For each form the pass that gives it to all layers.
        context: What the passes are given.
    """
    known = frozenset(addresses(model))
    forms: dict[str, set[Form]] = {}
    declined: dict[str, Declined] = {}
    for form, work in passes:
        try:
            _, said = applied(model, [work], context)
        except GraphoptError as error:
            declined[form.value] = Declined(form.value, f"no layer can be {form.value}: {error}")
            continue
        for item in said:
            if isinstance(item, Declined):
                declined.setdefault(item.at, item)
            elif isinstance(item, Rewrite):
                for at in _layers(item):
                    if at in known:
                        forms.setdefault(at, set()).add(form)
    return tuple(_described(model, forms)), tuple(
        item for at, item in declined.items() if at not in forms
    )


def _layers(rewrite: Rewrite) -> Iterator[str]:
    """The layers that a rewrite is about: where it is, or what its details name."""
    named = rewrite.details.get("layers")
    yield from str(named).split("\n") if named else (rewrite.at,)


def _described(model: ir.Model, forms: dict[str, set[Form]]) -> Iterator[Layer]:
    seen: set[str] = set()
    for at, node in _nodes(model):
        if at in forms and at not in seen:
            seen.add(at)
            yield Layer(at, node.op_type, kind(node), frozenset(forms[at]), weight_bytes(node))


def _nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    for scope in scopes(model):
        for node in scope.graph:
            yield address(node, scope), node
