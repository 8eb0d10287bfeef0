"""Any function of an onnx-graphsurgeon graph as a pass.

    @surgeon_pass
    def drop_dropout(graph: gs.Graph) -> None: ...

    graphopt run model.onnx -o out.onnx --pass module:drop_dropout

Weights cross by reference: the graph holds lazy constants without data, one that nobody reads
costs nothing, and one that nobody changed comes back as the tensor it was. What onnx-graphsurgeon
drops of a model is put back (metadata, doc strings, unused initializers, defaults of inputs); where
anything else would be lost, the pass refuses before it runs and says what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.callables import import_callable, prints_to_stderr
from graphopt.errors import GraphoptError
from graphopt.model import scopes
from graphopt.pipeline.contract import Context, Declined, Effect, Pass, Rewrite
from graphopt.surgeon.bridge import Bridge
from graphopt.surgeon.losses import losses, unsupported

__all__ = ["Surgeon", "refuse_losses", "run_on_graph", "surgeon_pass"]

GraphFunction = Callable[[Any], Any]
"""Takes a `gs.Graph` and edits it, or returns another one."""

_SHOWN = 3


@dataclass(frozen=True)
class Surgeon(Pass):
    """Run a function of an onnx-graphsurgeon Graph on the model.

    The function is given the main graph; bodies and functions hang on it. It edits the graph in
    place, or returns another one. Nodes are sorted topologically afterwards. It must be
    deterministic, as every pass.

    Args:
        function: `module:function`, as seen from the working directory.
        exact: Whether outputs stay equal up to float reassociation; a run then checks it.
        changes_interface: Whether inputs and outputs of the graph may change.

    Raises:
        GraphoptError: The function cannot be imported or fails, or onnx-graphsurgeon would drop a
            part of the model.
    """

    name: ClassVar[str] = "surgeon"
    effect: ClassVar[Effect] = Effect.LOSSY
    imports: ClassVar[tuple[str, ...]] = ("function",)

    function: str
    exact: bool = False
    changes_interface: bool = False
    _given: GraphFunction | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # What the user declares about one function holds for one instance.
        object.__setattr__(self, "effect", Effect.EXACT if self.exact else Effect.LOSSY)
        object.__setattr__(self, "keeps_interface", not self.changes_interface)

    def rewrites(self, model: ir.Model, context: Context) -> Iterator[Rewrite | Declined]:
        """Yield one rewrite: the function, whole."""
        del context
        function = self._given or import_callable(self.function)
        refuse_losses(model, self.function)
        nodes = sum(len(scope.graph) for scope in scopes(model))
        yield Rewrite(
            at=model.graph.name or "graph",
            why=f"{self.function} was asked for, on a graph of {nodes} nodes",
            apply=lambda: run_on_graph(model, function, self.function),
        )


def surgeon_pass(
    spec: str | GraphFunction,
    name: str | None = None,
    *,
    exact: bool = False,
    changes_interface: bool = False,
) -> Surgeon:
    """Make a pass of a function of `gs.Graph`; also a decorator.

    Args:
        spec: The function, or its name as `module:function`.
        name: What recipes and messages call it; None: `module:function`. A recipe can be replayed
            where this can be imported.
        exact: As in `Surgeon`.
        changes_interface: As in `Surgeon`.

    Raises:
        GraphoptError: A name that cannot be imported.
    """
    if isinstance(spec, str):
        function, default = import_callable(spec), spec
    else:
        function = spec
        default = f"{spec.__module__}:{getattr(spec, '__qualname__', type(spec).__qualname__)}"
    made = Surgeon(name or default, exact=exact, changes_interface=changes_interface)
    object.__setattr__(made, "_given", function)
    return made


def refuse_losses(model: ir.Model, what: str) -> None:
    """Raise GraphoptError where a round trip through onnx-graphsurgeon changes the model."""
    lost = list(unsupported(model)) or _lost_on_trial(model, what)
    if lost:
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        raise GraphoptError(
            f"{what} cannot run: onnx-graphsurgeon would drop or change"
            f" {', '.join(lost[:_SHOWN])}{more}",
            fix="write it as a pass on onnx_ir",
        )


def _lost_on_trial(model: ir.Model, what: str) -> list[str]:
    copy = model.clone()
    bridge = Bridge(copy)
    try:
        bridge.put_back(bridge.take_out())
    except Exception as error:
        # onnx-graphsurgeon fails in as many ways as there are things it does not know.
        raise GraphoptError(
            f"{what} cannot run: onnx-graphsurgeon does not take this model:"
            f" {type(error).__name__}: {error}"
        ) from error
    return list(dict.fromkeys(losses(model, copy)))


def run_on_graph(model: ir.Model, function: Callable[..., object], what: str) -> None:
    """Run a function on the graph of a model and put the result back into the model."""
    import onnx_graphsurgeon as gs

    bridge = Bridge(model)
    graph = bridge.take_out()
    try:
        with prints_to_stderr():
            result = function(graph)
    except Exception as error:
        # The user's function may raise anything.
        raise GraphoptError(f"{what} fails: {type(error).__name__}: {error}") from error
    if result is not None and not isinstance(result, gs.Graph):
        raise GraphoptError(f"{what} returns {type(result).__name__}, not a gs.Graph or None")
    try:
        bridge.put_back(graph if result is None else result)
    except Exception as error:
        # A graph that the function broke fails to export in as many ways.
        raise GraphoptError(
            f"{what} leaves a graph that is no model: {type(error).__name__}: {error}"
        ) from error
