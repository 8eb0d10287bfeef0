"""The evaluation of expressions to values of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.ensembles.expression import Cascade, Expression, Member
from graphopt.ensembles.lower.rows import Face, RowAxes
from graphopt.ensembles.lower.scope import Scope, Wire
from graphopt.ensembles.lower.writer import Writer
from graphopt.ensembles.outcome import single
from graphopt.ensembles.ports import Port
from graphopt.ensembles.unparse import title
from graphopt.ensembles.wiring import Environment, Source, Wired
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.ensembles.compose import Composition

Bundle = tuple[Wired[Wire], ...]
"""The outputs of an expression, in order, with the values that they are."""


@dataclass(frozen=True, eq=False)
class Site:
    """Where an expression is evaluated.

    Args:
        environment: What feeds the inputs of members.
        scope: The graph that nodes are added to.
    """

    environment: Environment[Wire]
    scope: Scope

    def read(self, wired: Wired[Wire]) -> ir.Value:
        """Return a value as the site's graph sees it."""
        return self.scope.read(wired.value)

    def within(self, environment: Environment[Wire]) -> Site:
        """Return the site in another environment."""
        return Site(environment, self.scope)

    def inside(self, scope: Scope) -> Site:
        """Return the site in a body."""
        return Site(self.environment, scope)


Rule = Callable[["Lowering", Any, Site], Bundle]
"""Builds the outputs of expressions of one class."""


class Lowering:
    """Builds the values of expressions in a composition; each once.

    Args:
        composition: Places members.
        rules: What builds the expressions of a class.
    """

    def __init__(self, composition: Composition, rules: Mapping[type[Expression], Rule]) -> None:
        self.composition = composition
        self.axes = RowAxes()
        self._rules = rules
        self._faces: dict[str, Face] = {}
        self._instances: dict[tuple[object, ...], list[tuple[Scope, Bundle]]] = {}
        self._environments: dict[tuple[object, ...], Environment[Wire]] = {}
        self._known: dict[tuple[Expression, int, int], tuple[Bundle, Site]] = {}
        self._main = Scope(Writer(composition.model.graph, composition.opset))

    @property
    def branches(self) -> list[ir.Node]:
        """The Ifs that were added, those inside others first."""
        return self._main.writer.branches

    def site(self) -> Site:
        """Return the site of the program's own expressions."""
        return Site(Environment(), self._main)

    def evaluate(self, expression: Expression, site: Site) -> Bundle:
        """Return the outputs of an expression, built where nothing has built them yet."""
        if isinstance(expression, Member):
            return self._member(expression, site)
        key = (expression, id(site.environment), id(site.scope))
        if key not in self._known:
            rule = self._rules.get(type(expression))
            if rule is None:
                raise GraphoptError(
                    f"{self.title(expression)} is still to be resolved before it can be built"
                )
            # The site is kept: its parts are known by their ids.
            self._known[key] = rule(self, expression, site), site
        return self._known[key][0]

    def evaluate_all(self, expressions: Sequence[Expression], site: Site) -> list[Bundle]:
        """Return the outputs of several expressions at one site.

        Those without a cascade are built first: its later stages then take rows of what they have
        computed, which they would compute for themselves otherwise.
        """
        for expression in sorted(expressions, key=has_cascade):
            self.evaluate(expression, site)
        return [self.evaluate(expression, site) for expression in expressions]

    def after(self, site: Site, outputs: Bundle) -> Site:
        """Return the site behind a `>>`: one and the same where the same stands before it."""
        key = (site.environment, *((item.port.name, item.value.value) for item in outputs))
        if key not in self._environments:
            self._environments[key] = site.environment.after(outputs)
        return site.within(self._environments[key])

    def binding(self, site: Site, bindings: Mapping[str, Wired[Wire]]) -> Site:
        """Return the site where inputs of these names are fed from these values."""
        bound = tuple((name, item.port.name, item.value.value) for name, item in bindings.items())
        key = (site.environment, "=", bound)
        if key not in self._environments:
            self._environments[key] = site.environment.binding(bindings)
        return site.within(self._environments[key])

    def title(self, expression: Expression) -> str:
        """Return what messages call an expression."""
        return title(expression)

    def titles(self, expressions: Sequence[Expression]) -> list[str]:
        """Return what messages call expressions."""
        return [self.title(expression) for expression in expressions]

    def face(self, member: str) -> Face:
        """Return the inputs and outputs of a model."""
        if member not in self._faces:
            signature = self.composition.signature(member)
            self._faces[member] = Face(
                tuple(Port(item.name, item.dtype, _dims(item.shape)) for item in signature.inputs),
                tuple(Port(item.name, item.dtype, _dims(item.shape)) for item in signature.outputs),
            )
        return self._faces[member]

    def models(self, expression: Expression) -> list[str]:
        """Return the names of the models in an expression, each once."""
        parts = (part for part in expression.walk() if isinstance(part, Member))
        return list(dict.fromkeys(part.name for part in parts))

    def rank_error(self, function: str, expression: Expression, fix: str) -> GraphoptError:
        """Say that the number of dimensions of an operand is not known, and whose fault it is."""
        unknown = [
            f"output {item.name!r} of member {model!r}"
            for model in self.models(expression)
            for item in self.face(model).outputs
            if item.shape is None
        ]
        where = f": {', '.join(unknown)} declares no shape, and none follows" if unknown else ""
        return GraphoptError(
            f"{function}: the rank of {self.title(expression)} is not known{where}", fix=fix
        )

    def inputs(self, member: str) -> tuple[Port, ...]:
        """Describe the inputs that a member must be fed."""
        return tuple(self.face(member).inputs)

    def input_wire(self, member: str, name: str, site: Site) -> Wired[Wire]:
        """Return what feeds an input of a member at a site, before any cast."""
        face = self.face(member)
        sources = site.environment.sources(member, face.inputs)
        if name in sources:
            return sources[name].wired
        port = next(item for item in face.inputs if item.name == name)
        return Wired(port, self._main.wire(self.composition.input(member, name)))

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.composition.notes:
            self.composition.notes.append(text)

    def _member(self, member: Member, site: Site) -> Bundle:
        face = self.face(member.name)
        sources = site.environment.sources(member.name, face.inputs)
        feeds = {item.name: self._source(member.name, item, sources) for item in face.inputs}
        key = (member.name, *((name, feed.wired.value.value) for name, feed in feeds.items()))
        instances = self._instances.setdefault(key, [])
        for scope in site.scope.around():
            for built, bundle in instances:
                if built is scope:
                    return bundle
        bundle = self._place(member.name, face, feeds, site)
        instances.append((site.scope, bundle))
        return bundle

    def _source(self, member: str, item: Port, sources: Mapping[str, Source[Wire]]) -> Source[Wire]:
        if item.name in sources:
            return sources[item.name]
        value = self.composition.input(member, item.name)
        return Source(Wired(item, self._main.wire(value)), None)

    def _place(
        self, member: str, face: Face, feeds: Mapping[str, Source[Wire]], site: Site
    ) -> Bundle:
        self.axes.learn(face, [(name, feed.wired.value.value) for name, feed in feeds.items()])
        bindings = {}
        for name, feed in feeds.items():
            value = site.read(feed.wired)
            if feed.cast is not None:
                value = site.scope.writer.cast(value, feed.cast)
            bindings[name] = value
        placed = self.composition.place(member, bindings, site.scope.writer.graph)
        return tuple(Wired(item, site.scope.wire(placed[item.name])) for item in face.outputs)


def has_cascade(expression: Expression) -> bool:
    """Whether some part of an expression runs for some rows only."""
    return any(isinstance(part, Cascade) for part in expression.walk())


def program_outputs(
    lowering: Lowering, outputs: Iterable[tuple[str | None, Expression]]
) -> dict[str, ir.Value]:
    """Build the outputs of a program.

    Args:
        lowering: Builds them.
        outputs: Expressions by name; None: one whose outputs keep their names.

    Raises:
        GraphoptError: An expression cannot be computed, or one with a name has several values.
    """
    site = lowering.site()
    found: dict[str, ir.Value] = {}
    named = list(outputs)
    bundles = lowering.evaluate_all([expression for _, expression in named], site)
    for (name, expression), bundle in zip(named, bundles, strict=True):
        if name is None:
            found.update({item.port.name: site.read(item) for item in bundle})
        else:
            ports = [item.port for item in bundle]
            single(ports, title(expression), "an output of the ensemble")
            found[name] = site.read(bundle[0])
    return found


def _dims(shape: ir.Shape | None) -> tuple[int | str | None, ...] | None:
    if shape is None:
        return None
    sizes = (dim if isinstance(dim, int) else dim.value for dim in shape)
    # Some exporters write -1 for what they do not know.
    return tuple(None if isinstance(size, int) and size < 0 else size for size in sizes)
