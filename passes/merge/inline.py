"""`inline`: calls of functions become the nodes that the functions are made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.calls import callees, in_circles, label
from graphopt.model.scopes import Scope, bodies, scopes
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.constants import ONNX_DOMAINS, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.opsets import raise_opset
from graphopt.rewrite.uses import is_unused
from passes.cleanup import functions as unused
from passes.cleanup.sites import place
from passes.merge.splice import Splice

Patterns = str | tuple[str, ...]
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(frozen=True)
class Inline(Pass):
    """Replace each call of a function of the model by the function's nodes.

    Calls in bodies and in functions that stay, and calls inside what was inlined, are covered.
    Attributes of the call take the place of references to them; a default counts where the call
    says nothing, and where there is none either, the attribute goes. Where functions and the graph
    are written in different versions of ONNX's operators, all are raised to the highest first.

    onnx_ir's own inliner is not used: it stops where opsets differ, calls values by names that
    bodies use already, and copies the inputs of bodies under the same names twice.

    Not inlined: a function that calls itself, one that is given a graph as an attribute, and one
    that needs another version of a domain that is not ONNX's.

    Args:
        include: Globs on names of functions, as `Name`, `domain:Name` or `domain:Name:overload`.
        exclude: Globs on those that stay.
        max_nodes: Calls are left alone that would bring the model over this many nodes: functions
            that call functions can write down more nodes than memory holds.
    """

    name: ClassVar[str] = "inline"
    effect: ClassVar[Effect] = Effect.EXACT

    include: Patterns = "*"
    exclude: Patterns = ()
    max_nodes: int = 1_000_000

    def __post_init__(self) -> None:
        """Check the parameters."""
        if isinstance(self.max_nodes, bool) or not isinstance(self.max_nodes, int):
            raise GraphoptError("inline: max_nodes must be a whole number of nodes")
        if self.max_nodes < 1:
            raise GraphoptError(f"inline: max_nodes must be positive, got {self.max_nodes}")

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite per call, one if opsets must be raised, one per unused function."""
        del context
        chosen = {
            identifier: function
            for identifier, function in model.functions.items()
            if self._matches(identifier, self.include)
            and not self._matches(identifier, self.exclude)
        }
        if not chosen:
            return
        try:
            yield from _raise(model, chosen)
            work = _Work(model, chosen, self.max_nodes)
            yield from work.rewrites()
            if work.inlined:
                yield from unused.rewrites(model)
        finally:
            Names.forget(model)

    @staticmethod
    def _matches(identifier: ir.OperatorIdentifier, patterns: Patterns) -> bool:
        globs = (patterns,) if isinstance(patterns, str) else patterns
        spelled = (identifier[1], label(identifier))
        return any(fnmatchcase(name, glob) for name in spelled for glob in globs)


_Functions = Mapping[ir.OperatorIdentifier, ir.Function]


def _raise(model: ir.Model, chosen: _Functions) -> Iterator[Rewrite | Declined]:
    """Bring the graph and its functions to one version of ONNX's operators."""
    reached = [chosen[key] for key in callees(model) if key in chosen]
    versions = {opset(model)}
    versions |= {
        opset(model, function)
        for function in reached
        if any(node.domain in ONNX_DOMAINS for node in function.all_nodes())
    }
    if len(versions) < 2:
        return
    written = ", ".join(map(str, sorted(versions)))
    why = f"the graph and its functions are written in opsets {written}"
    try:
        raise_opset(snapshot(model), max(versions))
    except GraphoptError as error:
        yield Declined("opset", f"{why}, and {error}")
        return
    yield Rewrite("opset", why, partial(raise_opset, model, max(versions)))


class _Work:
    """The calls that are left to look at, and how many nodes there are."""

    def __init__(self, model: ir.Model, chosen: _Functions, max_nodes: int) -> None:
        self._model = model
        self._chosen = chosen
        self._max_nodes = max_nodes
        self._circular = in_circles(model)
        self._sizes = {key: sum(1 for _ in fn.all_nodes()) for key, fn in chosen.items()}
        self._nodes = sum(1 for _ in model.graph.all_nodes())
        self._splice = Splice(model)
        self.inlined: set[ir.OperatorIdentifier] = set()

    def rewrites(self) -> Iterator[Rewrite | Declined]:
        # What is inlined everywhere is not looked into: it goes. Functions that stay are.
        everywhere = list(scopes(self._model))
        yield from self._all(scope for scope in everywhere if scope.function is None)
        left = callees(self._model)
        yield from self._all(
            scope
            for scope in everywhere
            if scope.function is not None and scope.function.identifier() in left
        )

    def _all(self, where: Iterable[Scope]) -> Iterator[Rewrite | Declined]:
        pending = deque((scope, node) for scope in where for node in scope.graph)
        while pending:
            scope, node = pending.popleft()
            function = self._chosen.get(node.op_identifier())
            if function is None or node.graph is None:
                continue
            at = place(scope, node)
            refused = self._refused(scope, node, function)
            if refused is not None:
                yield Declined(at, refused)
                continue
            size = self._sizes[function.identifier()]
            new: list[ir.Node] = []
            why = f"calls {label(function.identifier())} of {size} nodes"
            apply = partial(self._apply, scope, node, function, new)
            yield Rewrite(at, why, apply, {"nodes": size})
            pending.extendleft((scope, inner) for inner in reversed(new))

    def _apply(
        self, scope: Scope, node: ir.Node, function: ir.Function, new: list[ir.Node]
    ) -> None:
        owner = self._model if scope.function is None else scope.function
        for domain, version in function.opset_imports.items():
            if _version(owner.opset_imports, domain) is None:
                owner.opset_imports[domain] = version
        for inner in self._splice(node, function):
            new += [inner, *(deeper for body in bodies(inner) for deeper in body.all_nodes())]
        self.inlined.add(function.identifier())
        self._nodes += len(new) - 1

    def _refused(self, scope: Scope, node: ir.Node, function: ir.Function) -> str | None:
        identifier = function.identifier()
        if identifier in self._circular:
            return f"{label(identifier)} calls itself"
        if self._nodes + self._sizes[identifier] > self._max_nodes:
            return f"the model would have more than {self._max_nodes} nodes"
        graphs = [a.name for a in node.attributes.values() if a.type in _GRAPHS]
        if graphs:
            return f"gives a graph to {label(identifier)} as {graphs[0]}"
        if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
            return f"has more inputs or outputs than {label(identifier)}"
        owner = self._model if scope.function is None else scope.function
        return _other_version(owner.opset_imports, function) or _left_out(node, function)


def _other_version(imports: Mapping[str, int], function: ir.Function) -> str | None:
    for domain in sorted({node.domain for node in function.all_nodes()}):
        inside = _version(function.opset_imports, domain)
        outside = _version(imports, domain)
        if None not in (inside, outside) and inside != outside:
            spelled = domain or "ai.onnx"
            return f"its function is written in {spelled} {inside}, and this in {outside}"
    return None


def _version(imports: Mapping[str, int], domain: str) -> int | None:
    names = ONNX_DOMAINS if domain in ONNX_DOMAINS else (domain,)
    return next((imports[name] for name in names if name in imports), None)


def _left_out(node: ir.Node, function: ir.Function) -> str | None:
    given = dict(zip(function.inputs, node.inputs, strict=False))
    missing = {value for value in function.inputs if given.get(value) is None}
    for output, value in zip(node.outputs, function.outputs, strict=False):
        if value in missing and not is_unused(output):
            return f"its output {output.name} is an input that it leaves out"
    return None
