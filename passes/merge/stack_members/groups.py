"""Groups of lanes: found, planned, and applied to the graph they stand in."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.model.scopes import Scope
from graphopt.rewrite.selection import address
from graphopt.rewrite.shapes import Shapes
from passes.cleanup.determinism import determinism
from passes.merge.stack_members.classes import Classes
from passes.merge.stack_members.drafts import Wire, needed
from passes.merge.stack_members.edits import Edits, Joining
from passes.merge.stack_members.emptiness import Emptiness
from passes.merge.stack_members.joins import Join, joins
from passes.merge.stack_members.layouts import Refused
from passes.merge.stack_members.peers import Alignment, Peers
from passes.merge.stack_members.planning import Planner
from passes.merge.stack_members.rules import can_stack, why_not


@dataclass(frozen=True)
class Style:
    """How lanes are stacked.

    Args:
        columns: Whether products are computed as Conv: see `Layout.COLUMNS`.
        most: The most lanes that one operator does the work of; None: all.
    """

    columns: bool = False
    most: int | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Lanes that hang together.

    Args:
        scope: Where they stand.
        name: Of the last node of the first lane.
        ends: Where each lane ends.
        lanes: How many there are.
        kind: What groups have in common that gain or lose alike.
        before: How many nodes go. Those of a join that several groups shorten count for the first
            group that has fewer nodes afterwards.
        after: How many come.
        refused: Why some operators were left apart.
    """

    scope: Scope
    name: str
    ends: tuple[str, ...]
    lanes: int
    kind: Hashable
    before: int
    after: int
    refused: tuple[str, ...]
    _plan: Planner = field(repr=False)
    _edits: Edits = field(repr=False)
    _joinings: Mapping[int, Joining] = field(repr=False)
    _nodes: tuple[ir.Node, ...] = field(repr=False)

    @property
    def at(self) -> str:
        """Where the lanes end."""
        return self.scope.at(self.name)

    @property
    def why(self) -> str:
        """What is done, with the numbers of it."""
        left = f"; left apart: {'; '.join(self.refused)}" if self.refused else ""
        return f"{self.lanes} lanes run as one, {self.after} nodes for {self.before}{left}"

    def apply(self) -> None:
        """Put the stacked nodes in the place of the lanes; other groups stay possible."""
        base = f"{self.name}/stacked"
        values = iter(self._edits.build(self._plan.wires(), base))
        for join, parts, used in self._plan.parts:
            made = {place: next(values) for place in parts}
            self._edits.join(self._joinings[id(join)], made, used, base)
        for (old, _), new in zip(self._plan.outputs, values, strict=True):
            self._edits.replace(old, new)
        self._edits.remove(reversed(self._nodes))
        self._edits.finish()


def groups(model: ir.Model, scope: Scope, opset: int, style: Style) -> Iterator[Group]:
    """Yield the groups of lanes of a scope.

    Args:
        model: The model.
        scope: Its own graph, or a body in it.
        opset: Of the scope.
        style: How to stack them.
    """
    classes = Classes(scope.graph, determinism(model))
    shapes = Shapes.of(model)
    alignment = Alignment(classes, can_stack, style.most)
    found = list(joins(scope.graph, classes, lambda value: _is_float(shapes, value)))
    for join in found:
        for nodes in _ends(join, classes):
            alignment.align(nodes)
    joined = {node for join in found for node in join.nodes}
    for nodes in _alike((node for node in scope.graph if node not in joined), classes):
        alignment.align(nodes)
    edits = Edits(model, scope.graph)
    joinings = {
        id(join): Joining(join, opset, shapes.dtype(join.node.outputs[0]) or ir.DataType.FLOAT)
        for join in found
    }
    shortened: set[int] = set()
    emptiness = Emptiness()
    for peers, ends in _components(alignment, found):
        read = (value for peer in peers for value in peer.lead.inputs)
        columns = style.columns and not emptiness.any(read)
        planner = Planner(alignment, peers, ends, shapes, opset, columns=columns)
        try:
            planner.plan()
        except Refused:
            continue  # what leaves the group cannot be taken apart: sizes are not known
        if planner.wires():
            group = _group(scope, planner, peers, edits, joinings, shortened)
            if group.after < group.before:
                shortened.update(id(join) for join, _, _ in planner.parts)
            yield group


def left_apart(model: ir.Model, scope: Scope) -> Iterator[tuple[str, str]]:
    """Yield where equal operators of several members stand that cannot be stacked, and why."""
    if not any(scope.function or why_not(node) for node in scope.graph):
        return
    classes = Classes(scope.graph, determinism(model))
    by_form: dict[int, dict[int, ir.Node]] = {}
    for node in scope.graph:
        if can_stack(node) if scope.function else why_not(node):
            found = by_form.setdefault(classes.node_form(node), {})
            found.setdefault(classes.node_content(node), node)
    for nodes in (list(found.values()) for found in by_form.values() if len(found) > 1):
        why = why_not(nodes[0]) or "shapes inside functions are not known: inline them first"
        op_type = nodes[0].op_type
        yield scope.at(address(nodes[0], Scope("", scope.graph))), f"{len(nodes)} {op_type}: {why}"
        if scope.function:
            return  # once for each function


def _is_float(shapes: Shapes, value: ir.Value) -> bool:
    dtype = shapes.dtype(value)
    return dtype is not None and dtype.is_floating_point()


def _ends(join: Join, classes: Classes) -> Iterator[list[ir.Node]]:
    """Yield nodes of one form that a join reads."""
    by_form: dict[object, dict[ir.Node, None]] = {}
    for term in join.terms:
        producer = term.value.producer()
        if producer is not None and producer in classes.order:
            form = (classes.node_form(producer), term.value.index())
            by_form.setdefault(form, {})[producer] = None
    yield from (list(nodes) for nodes in by_form.values() if len(nodes) > 1)


def _alike(graph: Iterable[ir.Node], classes: Classes) -> Iterator[list[ir.Node]]:
    """Yield nodes of one form, the ones that stand on most others first."""
    by_form: dict[int, list[ir.Node]] = {}
    for node in graph:
        if can_stack(node):
            by_form.setdefault(classes.node_form(node), []).append(node)
    several = [nodes for nodes in by_form.values() if len(nodes) > 1]
    several.sort(key=lambda nodes: -classes.height[nodes[0]])
    yield from several


def _components(
    alignment: Alignment, found: Sequence[Join]
) -> Iterator[tuple[list[Peers], list[Join]]]:
    """Divide peers into groups that read one another, with the joins that read them."""
    parent = {peers: peers for peers in alignment.all}
    for peers in alignment.all:
        for source in map(alignment.source, peers.inputs()):
            if source is not None:
                parent[_root(parent, peers)] = _root(parent, source)
    ends: dict[Peers, dict[int, Join]] = {}
    for join in found:
        for term in join.terms:
            own = alignment.of(term.value.producer())
            if own is not None:
                ends.setdefault(_root(parent, own), {})[id(join)] = join
    members: dict[Peers, list[Peers]] = {}
    for peers in alignment.all:
        members.setdefault(_root(parent, peers), []).append(peers)
    order = alignment.classes.order
    for first, inside in members.items():
        inside.sort(key=lambda peers: order[peers.lead])
        yield inside, list(ends.get(first, {}).values())


def _root(parent: dict[Peers, Peers], peers: Peers) -> Peers:
    while parent[peers] is not peers:
        parent[peers] = parent[parent[peers]]
        peers = parent[peers]
    return peers


def _group(
    scope: Scope,
    planner: Planner,
    peers: Sequence[Peers],
    edits: Edits,
    joinings: Mapping[int, Joining],
    shortened: Container[int],
) -> Group:
    gone = {node: None for item in peers if item in planner.stacked for node in item.nodes}
    combined: list[Wire] = []
    for join, parts, used in planner.parts:
        if id(join) in shortened:
            combined += parts.values()
        else:
            gone.update(dict.fromkeys(join.nodes))
            combined.append(joinings[id(join)].combined(parts, used))
    bare = Scope("", scope.graph)
    ends = tuple(address(node, bare) for node in peers[-1].nodes)
    return Group(
        scope=scope,
        name=ends[0],
        ends=tuple(map(scope.at, ends)),
        lanes=max(len(item.nodes) for item in peers),
        kind=(scope.name, tuple((item.lead.op_type, len(item.nodes)) for item in peers)),
        before=len(gone),
        after=len(needed([*combined, *(wire for _, wire in planner.outputs)])),
        refused=tuple(dict.fromkeys(planner.refused)),
        _plan=planner,
        _edits=edits,
        _joinings=joinings,
        _nodes=tuple(node for item in peers if item in planner.stacked for node in item.nodes),
    )
