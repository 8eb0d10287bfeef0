"""Which layers of a model can take which forms: the passes themselves are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Declined, Pass, Rewrite
from graphopt.rewrite.layers import Role
from graphopt.rewrite.selection import address
from graphopt.rewrite.weights import Weight, weights
from passes.quantize.plan.applying import applied
from passes.quantize.plan.forms import Form, Layer
from passes.quantize.plan.kinds import kind, weight_bytes

_BESIDE = {Form.FOLDED: (Form.FOLDED, Form.FINE)}
"""Forms that whatever can take one of them can take too."""


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
    readers = _readers(model)
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
            elif isinstance(item, Rewrite) and _gives(item, form):
                for at in readers.get(item.at, (item.at,)):
                    if at in known:
                        forms.setdefault(at, set()).update(_BESIDE.get(form, (form,)))
    layers = _tied(_described(model, forms), readers)
    return tuple(layers), tuple(item for at, item in declined.items() if at not in forms)


def _gives(rewrite: Rewrite, form: Form) -> bool:
    """Whether a rewrite gives a form, and not another that the pass found better there."""
    return form is not Form.BLOCKS or rewrite.details.get("form") == "dequantize"


def _readers(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """The addresses of the layers that read each weight, by the address of the weight."""
    return {
        found.at: tuple(dict.fromkeys(address(use.node, use.scope) for use in found.uses))
        for found in weights(model, roles=(Role.WEIGHT, Role.EMBEDDING))
        if isinstance(found, Weight)
    }


def _described(model: ir.Model, forms: Mapping[str, set[Form]]) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for at, node in _nodes(model):
        if at in forms and at not in found:
            size = weight_bytes(node)
            found[at] = Layer(at, node.op_type, kind(node), frozenset(forms[at]), size)
    return found


def _tied(layers: dict[str, Layer], readers: Mapping[str, tuple[str, ...]]) -> Iterator[Layer]:
    """Make one of layers that read the same weight: it is stored once, in one form."""
    groups: dict[str, list[str]] = {at: [at] for at in layers}
    for sharing in readers.values():
        known = [at for at in sharing if at in layers]
        if len(known) > 1:
            joined = list(dict.fromkeys(at for one in known for at in groups[one]))
            groups.update(dict.fromkeys(joined, joined))
    for at, layer in layers.items():
        first, *others = sorted(groups[at], key=list(layers).index)
        if first == at:
            common = frozenset.intersection(*(layers[one].forms for one in groups[at]))
            yield dataclasses.replace(layer, forms=common, also=tuple(others))


def _nodes(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    for scope in scopes(model):
        for node in scope.graph:
            yield address(node, scope), node
