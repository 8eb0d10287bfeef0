"""A meta-model over the outputs of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.ensembles.expression import Stack
from graphopt.ensembles.heads import head_inputs
from graphopt.ensembles.lower.operands import ports
from graphopt.ensembles.lower.writer import Writer, sizes
from graphopt.ensembles.outcome import flattened
from graphopt.ensembles.ports import Port, is_float
from graphopt.ensembles.wiring import Wired
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.ensembles.lower.lowering import Bundle, Lowering, Site
    from graphopt.ensembles.lower.scope import Wire

FEATURES = "features"
"""What messages call the rows that feed a meta-model."""


def lower_stack(lowering: Lowering, expression: Stack, site: Site) -> Bundle:
    """Flatten outputs to rows, put them side by side, and feed them to the meta-model."""
    if expression.meta is None:
        raise GraphoptError(
            f"{lowering.title(expression)} has no meta-model yet",
            fix="fit one: --fit-meta logistic",
        )
    bundles = lowering.evaluate_all(expression.of, site)
    flattened([ports(bundle) for bundle in bundles], lowering.titles(expression.of))
    parts = [item for bundle in bundles for item in bundle]
    if expression.passthrough:
        parts = _inputs(lowering, expression, site) + parts
    writer = site.scope.writer
    rows = [_row(writer, site.read(item)) for item in parts]
    joined = rows[0] if len(rows) == 1 else writer.op("Concat", *rows, axis=1)
    columns = (sizes(joined) or (None, None))[1]
    shape = (parts[0].port.shape or (None,))[0], columns
    fed = Wired(Port(FEATURES, ir.DataType.FLOAT, shape), site.scope.wire(joined))
    inner = lowering.after(site, (fed,))
    bundle = lowering.evaluate(expression.meta, inner)
    inner.environment.check(lowering.title(expression.meta))
    return bundle


def _inputs(lowering: Lowering, expression: Stack, site: Site) -> list[Wired[Wire]]:
    """Return what feeds float inputs of the stacked expressions from outside, each once."""
    found: dict[ir.Value, Wired[Wire]] = {}
    for of in expression.of:
        for member, name in head_inputs(of, lowering.inputs):
            wired = lowering.input_wire(member, name, site)
            if is_float(wired.port):
                found.setdefault(wired.value.value, wired)
    return list(found.values())


def _row(writer: Writer, value: ir.Value) -> ir.Value:
    known = sizes(value)
    numbers = writer.cast(value, ir.DataType.FLOAT)
    return (
        numbers if known is not None and len(known) == 2 else writer.op("Flatten", numbers, axis=1)
    )
