"""Reads a model, node by node, and couples the slices of its tensors."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.rewrite.constants import ONNX_DOMAINS, constant, opset
from graphopt.rewrite.shapes import Shapes
from passes.prune.coupling import Coupling
from passes.prune.parameters import Parameters
from passes.prune.places import Place, Places
from passes.prune.rules import rule
from passes.prune.site import Mixed, Site


def coupling(model: ir.Model) -> Coupling:
    """Return which slices go together in the main graph and the bodies of a model.

    What functions hold is left out: their tensors have no shapes.
    """
    found = Coupling(Places(Shapes.of(model)), Parameters(model))
    keep_interface(Scope("", model.graph), found)
    couple_nodes(model, found)
    return found


def keep_interface(scope: Scope, found: Coupling) -> None:
    """Keep what enters and leaves a graph or a body."""
    whose = "the graph" if scope.owner is None else f"the body {scope.name}"
    for value in scope.graph.inputs:
        found.freeze(Place(value), f"{value.name} is an input of {whose}")
    for value in scope.graph.outputs:
        found.freeze(Place(value), f"{value.name} is an output of {whose}")


def couple_nodes(model: ir.Model, found: Coupling) -> None:
    """Couple the slices of what nodes read and write, in the main graph and bodies."""
    for scope in [scope for scope in scopes(model) if scope.function is None]:
        if scope.owner is not None:
            keep_interface(scope, found)
        for node in scope.graph:
            domain = "" if node.domain in ONNX_DOMAINS else node.domain
            version = model.opset_imports.get(domain, 1) if domain else opset(model)
            _visit(model, Site(node, scope, found, version))


def _visit(model: ir.Model, site: Site) -> None:
    node = site.node
    for index, value in enumerate(node.inputs):
        tensor, place = constant(value), site.input(index)
        if tensor is not None and place is not None and tensor.dtype == ir.DataType.STRING:
            site.keep(place, why="reads text")
    known = None if node.op_identifier() in model.functions else rule(node)
    if known is None:
        _keep_all(site, f"{site.at} has no rule")
        return
    try:
        known(site)
    except Mixed as refusal:
        _keep_all(site, str(refusal))


def _keep_all(site: Site, why: str) -> None:
    for index in range(len(site.node.inputs)):
        place = site.input(index)
        if place is not None:
            site.coupling.freeze(place, why)
    for output in site.node.outputs:
        site.coupling.freeze(Place(output), why)
