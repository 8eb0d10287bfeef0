"""`outline`: blocks that repeat become functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.calls import called_by, callees_first, in_circles
from graphopt.model.scopes import Scope, bodies, scopes
from graphopt.pipeline.contract import Context, Declined, Detail, Effect, Pass, Rewrite
from graphopt.rewrite.names import Names
from passes.merge.outline.block import Block, Occurrence, block
from passes.merge.outline.extract import DOMAIN, extract
from passes.merge.outline.lines import Lines, Reader, as_written, by_branch
from passes.merge.outline.naming import block_name
from passes.merge.outline.repeats import Repeat, repeats

_LOOSE = 1.25
"""How much more a block must save for its attributes to become parameters."""

_EQUALLY_GOOD = 32
"""How many blocks that save the same are looked at for the one with the fewest ends."""

_TRIED = 256
"""How many blocks are looked at before the model is read again."""


@dataclass(frozen=True)
class Outline(Pass):
    """Make one function of each block that repeats, and calls of its occurrences.

    The layers of a transformer, the members of an ensemble, residual blocks: what reads and
    computes in the same way becomes a function of domain `graphopt.outlined`, whose weights are
    inputs. Tensors that all occurrences share are inputs, too; Constant nodes that are equal go
    inside; attributes that differ become attributes of the function where that pays. What a block
    gives to nodes outside, or out of the graph, are its outputs. Blocks are found in the main
    graph, in bodies and in functions, and blocks of calls, too, so that a member is made of layers.

    `inline` brings the nodes back. ONNX Runtime does the same when a session starts, and runs what
    it has run before: the file gets smaller, and no faster.

    Args:
        nodes: The fewest nodes of a block, Constant nodes not counted. What would not make the
            model shorter to write, since its calls name many weights, is left as it is.
        depth: How many functions deep calls may go.
    """

    name: ClassVar[str] = "outline"
    effect: ClassVar[Effect] = Effect.EXACT

    nodes: int = 4
    depth: int = 2

    def __post_init__(self) -> None:
        """Check the parameters."""
        for parameter, least in (("nodes", 2), ("depth", 1)):
            value = getattr(self, parameter)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise GraphoptError(f"outline: {parameter} must be a whole number from {least} up")

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per function that is made."""
        del context
        if in_circles(model):
            yield Declined("functions", "functions that call themselves cannot be put in order")
            return
        try:
            while True:
                applied = 0
                for found in self._blocks(model):
                    rewrite, done = _rewrite(model, found)
                    yield rewrite
                    if not done:
                        return  # offered, and not applied
                    applied += 1
                if not applied:
                    return
        finally:
            Names.forget(model)

    def _blocks(self, model: ir.Model) -> Iterator[Block]:
        """Yield the best block, and those after it that have nothing to do with it."""
        levels = _Levels(model, self.depth)
        reader = Reader(model, levels.room, levels.heights)
        best: tuple[Lines, list[Repeat]] | None = None
        enough = 0.0
        for loose in (False, True):
            for order in (as_written, by_branch):
                lines = reader.lines(order, loose=loose)
                found = repeats(lines.tokens, lines.reads, self.nodes)
                if found and found[0].saved > enough:
                    best, enough = (lines, found), found[0].saved
            enough *= _LOOSE
        if best is not None:
            yield from _choose(*best)


class _Levels:
    """How deep calls of new functions go already.

    Args:
        model: Its functions do not call each other in a circle.
        depth: How deep they may go.
    """

    def __init__(self, model: ir.Model, depth: int) -> None:
        self._depth = depth
        self.heights: dict[ir.OperatorIdentifier, int] = {}
        order = callees_first(model)
        for key in order:
            called = called_by(model, model.functions[key])
            inner = max((self.heights[callee] for callee in called), default=0)
            self.heights[key] = inner + (key[0] == DOMAIN)
        self._levels = dict.fromkeys(order, 0)
        for key in reversed(order):
            self._levels[key] += key[0] == DOMAIN
            for callee in called_by(model, model.functions[key]):
                self._levels[callee] = max(self._levels[callee], self._levels[key])

    def room(self, scope: Scope) -> int:
        """Return how many functions deep a call from a scope may reach."""
        if scope.function is None:
            return self._depth
        return self._depth - self._levels[scope.function.identifier()]


def _choose(lines: Lines, found: Sequence[Repeat]) -> Iterator[Block]:
    """Yield blocks that do not touch each other, the best first.

    The lines hold as long as only whole pieces of them were taken out.
    """
    equally = [repeat for repeat in found if repeat.saved == found[0].saved][:_EQUALLY_GOOD]
    blocks = [made for repeat in equally if (made := _block(lines, repeat)) is not None]
    best = min(blocks, key=lambda made: (made.ends, len(made.parameters)), default=None)
    if best is not None:
        yield best
    for repeat in found[:_TRIED]:
        if best is not None and _has_bodies(best):
            return  # scopes have moved
        if all(_untouched(lines, start, repeat.length) for start in repeat.starts):
            best = _block(lines, repeat)
            if best is not None:
                yield best


def _has_bodies(made: Block) -> bool:
    return any(True for node in made.occurrences[0].nodes for _ in bodies(node))


def _untouched(lines: Lines, start: int, length: int) -> bool:
    return all(
        node is not None and node.graph is scope.graph
        for node, scope in zip(
            lines.nodes[start : start + length], lines.scopes[start : start + length], strict=True
        )
    )


def _block(lines: Lines, repeat: Repeat) -> Block | None:
    occurrences = []
    for start in repeat.starts:
        nodes = lines.nodes[start : start + repeat.length]
        whole = tuple(node for node in nodes if node is not None)
        occurrences.append(Occurrence(lines.scopes[start], whole))
    inside = {id(b) for o in occurrences for n in o.all_nodes() for b in bodies(n)}
    apart = [o for o in occurrences if id(o.scope.graph) not in inside]
    if (len(apart) - 1) * repeat.length - len(apart) < 1:
        return None
    made = block(apart)
    return made if made.shrinks else None


def _rewrite(model: ir.Model, found: Block) -> tuple[Rewrite, list[ir.Function]]:
    name = _fresh(model, block_name([o.nodes for o in found.occurrences]))
    count, size = len(found.occurrences), found.size
    details: dict[str, Detail] = {
        "function": name,
        "occurrences": count,
        "nodes_before": count * size,
        "nodes_after": count + size,
    }
    done: list[ir.Function] = []
    why = f"{count} occurrences of {size} nodes can be {count} calls and one function"
    apply = partial(_apply, model, found, name, details, done)
    return Rewrite(f"{DOMAIN}:{name}", why, apply, details), done


def _fresh(model: ir.Model, base: str) -> str:
    name, number = base, 1
    while (DOMAIN, name, "") in model.functions:
        number += 1
        name = f"{base}_{number}"
    return name


def _apply(
    model: ir.Model,
    found: Block,
    name: str,
    details: dict[str, Detail],
    done: list[ir.Function],
) -> None:
    every = [node for occurrence in found.occurrences for node in occurrence.nodes]
    every += [node for nodes in found.constants for node in nodes]
    details["bytes_before"] = sum(map(_nbytes, every))
    tops = [
        model.graph if o.scope.function is None else o.scope.function for o in found.occurrences
    ]
    done.append(extract(model, found, name))
    for top in dict.fromkeys(tops):
        top.sort()
    calls = [node for s in scopes(model) for node in s.graph if node.op_type == name]
    after = sum(_nbytes(node) for node in calls if node.domain == DOMAIN)
    details["bytes_after"] = after + ir.serde.serialize_function(done[-1]).ByteSize()


def _nbytes(node: ir.Node) -> int:
    return int(ir.serde.serialize_node(node).ByteSize())
