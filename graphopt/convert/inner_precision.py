"""What outputs may differ by whose own type and size do not say how precisely they are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.convert.movers import MOVERS, maker
from graphopt.convert.parity import Reference
from graphopt.model import scopes
from graphopt.rewrite.shapes import Shapes
from graphopt.runtime.difference import Difference, Tolerance, float_eps
from graphopt.runtime.feeds import Array

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SIGMOIDS = frozenset({"Sigmoid", "HardSigmoid"})
_SIZES = frozenset({"Shape", "Size"})


def inner_tolerances(
    model: ir.Model,
    examples: Sequence[Array],
    reference: Reference,
    options: Options,
    *,
    reordered: Reference | None = None,
) -> dict[str, Tolerance]:
    """Return what single outputs may differ by where the default bound does not fit them.

    The default goes by an output's type and by its largest element. That is too narrow

    - for a float32 output of what is computed in a narrower type inside, as Keras does under
      `mixed_float16`: what counts is the type of the computation;
    - for a sigmoid that is tiny everywhere: ONNX Runtime computes it as 1/2 plus a quotient, both
      rounded at 1/2 (`MlasComputeLogistic`), so that it is exact to one eps of 1, whatever is left
      of it;
    - for an output that cancels, as large sums of both signs do: twice what the source itself moves
      it by with its sums in another order counts, as in `Difference.bound`.

    Args:
        model: The converted model.
        examples: One array per input without a default, in order.
        reference: The source framework.
        options: Where it says what outputs may differ by, nothing else counts.
        reordered: The source with its sums in another order, where it can be had.

    Raises:
        GraphoptError: The source does not run on its example inputs.
    """
    if options.tolerance is not None:
        return {}
    narrow = _narrow_outputs(model)
    squashed = [at for at, value in enumerate(model.graph.outputs) if _is_sigmoid(value)]
    if not narrow and not squashed and reordered is None:
        return {}
    batch = dict(zip(required_inputs(model), examples, strict=True))
    wanted = reference(batch)
    moved = wanted if reordered is None else reordered(batch)
    allowed: dict[str, Tolerance] = {}
    for at, (value, array) in enumerate(zip(model.graph.outputs, wanted, strict=True)):
        eps = float_eps(array.dtype)
        if eps is None:
            continue
        default = _relative(array.dtype) * _largest(array)
        narrowed = _relative(narrow[at]) * _largest(array) if at in narrow else 0.0
        noise = 2 * _largest(array.astype(np.float64) - moved[at].astype(np.float64))
        bound = max(default, narrowed, noise, eps if at in squashed else 0.0)
        if bound > default:
            allowed[value.name or ""] = Tolerance(atol=bound)
    return allowed


def required_inputs(model: ir.Model) -> list[str]:
    """Return the names of the inputs that have no default, in order."""
    return [value.name or "" for value in model.graph.inputs if not value.is_initializer()]


def _largest(array: Array) -> float:
    return float(np.abs(array[np.isfinite(array)].astype(np.float64)).max(initial=0))


def _relative(dtype: np.dtype[np.generic]) -> float:
    """Return what reassociation explains of a number of size 1."""
    one = np.ones(1, dtype)
    difference = Difference()
    difference.add(one, one)
    return difference.bound


def _is_sigmoid(output: ir.Value) -> bool:
    node = maker(output)
    return node is not None and node.domain in {"", "ai.onnx"} and node.op_type in _SIGMOIDS


def _narrow_outputs(model: ir.Model) -> dict[int, np.dtype[np.generic]]:
    """Return the outputs that are computed in a narrow type, and that type."""
    if not _has_narrow_values(model):
        return {}
    shapes = Shapes(model)
    fed = _depending_on_inputs(model)
    found: dict[int, np.dtype[np.generic]] = {}
    for at, output in enumerate(model.graph.outputs):
        dtypes = {shapes.dtype(value) for value in _behind(output) if value in fed}
        for narrow in _NARROW:
            if narrow in dtypes:
                # The last is the coarsest.
                found[at] = np.dtype(narrow.numpy())
    return found


def _has_narrow_values(model: ir.Model) -> bool:
    narrow = {int(dtype) for dtype in _NARROW}
    return any(
        value.dtype in _NARROW
        for scope in scopes(model)
        for value in (*scope.graph.inputs, *scope.graph.initializers.values())
    ) or any(
        node.op_type == "Cast" and node.attributes["to"].as_int() in narrow
        for scope in scopes(model)
        for node in scope.graph
    )


def _depending_on_inputs(model: ir.Model) -> set[ir.Value]:
    """Return what the main graph computes of its inputs, sizes aside; weights are exact."""
    known: set[ir.Value] = set(model.graph.inputs)
    computed: set[ir.Value] = set()
    for node in model.graph:
        if node.op_type not in _SIZES and any(value in known for value in _read(node)):
            known.update(node.outputs)
            if node.op_type not in MOVERS or any(value in computed for value in node.inputs):
                computed.update(node.outputs)
    return computed


def _behind(output: ir.Value) -> Iterator[ir.Value]:
    seen, pending = {output}, [output]
    while pending:
        value = pending.pop()
        yield value
        node = value.producer()
        for source in () if node is None or node.op_type in _SIZES else _read(node):
            if source not in seen:
                seen.add(source)
                pending.append(source)


def _read(node: ir.Node) -> list[ir.Value]:
    """Return what a node and its bodies read."""
    bodies = [
        graph
        for attribute in node.attributes.values()
        if attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
        for graph in (
            [attribute.as_graph()]
            if attribute.type == ir.AttributeType.GRAPH
            else attribute.as_graphs()
        )
    ]
    inner = [value for graph in bodies for item in graph for value in _read(item)]
    return [value for value in (*node.inputs, *inner) if value is not None]
