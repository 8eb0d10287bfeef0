"""Element by element: weighted sums, mean, median, min, max, product, geometric mean.

Operands are computed in the widest float type of theirs, halves in float32; the result has the
widest type. NaN in one operand makes NaN, as in numpy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.ensembles.expression import Combine, Expression, Sum
from graphopt.ensembles.lower.operands import (
    combined,
    flat_rows,
    like,
    ports,
    working_type,
)
from graphopt.ensembles.lower.writer import Writer
from graphopt.ensembles.outcome import arithmetic
from graphopt.rewrite.constants import is_op

if TYPE_CHECKING:
    from graphopt.ensembles.lower.lowering import Bundle, Lowering, Site

_Compute = Callable[[Writer, list[ir.Value], ir.DataType], ir.Value]

_NETWORK = 3
"""Up to so many operands a median is made of Min and Max."""


def lower_sum(lowering: Lowering, expression: Sum, site: Site) -> Bundle:
    """Build a weighted sum: each weight as it is, by a Mul unless it is 1, then one Sum."""
    of = [term for _, term in expression.terms]
    weights = [weight for weight, _ in expression.terms]

    def compute(writer: Writer, values: list[ir.Value], dtype: ir.DataType) -> ir.Value:
        total = _weighted_sum(writer, values, weights, dtype)
        if expression.bias:
            total = writer.op("Add", total, writer.number(expression.bias, dtype))
        return total

    return _arithmetic(lowering, site, of, "sum", compute)


def lower_combine(lowering: Lowering, expression: Combine, site: Site) -> Bundle:
    """Build a mean, median, min, max, product or geometric mean."""
    weights = expression.weights

    def compute(writer: Writer, values: list[ir.Value], dtype: ir.DataType) -> ir.Value:
        if expression.function == "mean":
            return _mean(writer, values, weights, dtype)
        if expression.function == "geometric_mean":
            return _geometric_mean(writer, values, weights, dtype)
        unweighted = _UNWEIGHTED[expression.function]
        return unweighted(writer, values)

    return _arithmetic(lowering, site, expression.of, expression.function, compute)


def averaged(site: Site, bundles: Sequence[Bundle], titles: Sequence[str], name: str) -> Bundle:
    """Build the mean of bundles.

    Args:
        site: Where.
        bundles: What is averaged.
        titles: What messages call them.
        name: What messages call the mean.
    """

    def compute(writer: Writer, values: list[ir.Value], dtype: ir.DataType) -> ir.Value:
        return _mean(writer, values, None, dtype)

    return _computed(site, bundles, titles, name, compute)


def _arithmetic(
    lowering: Lowering, site: Site, of: Sequence[Expression], function: str, compute: _Compute
) -> Bundle:
    return _computed(site, lowering.evaluate_all(of, site), lowering.titles(of), function, compute)


def _computed(
    site: Site,
    bundles: Sequence[Bundle],
    titles: Sequence[str],
    function: str,
    compute: _Compute,
) -> Bundle:
    described = arithmetic([ports(bundle) for bundle in bundles], titles, function)
    writer = site.scope.writer

    def converted(values: list[ir.Value], dtype: ir.DataType) -> ir.Value:
        working = working_type(dtype)
        cast = [writer.cast(value, working) for value in values]
        return writer.cast(compute(writer, cast, working), dtype)

    return combined(site, bundles, titles, (function, described), converted)


def _weighted_sum(
    writer: Writer, values: Sequence[ir.Value], weights: Sequence[float], dtype: ir.DataType
) -> ir.Value:
    terms = [
        value if weight == 1 else writer.op("Mul", value, writer.number(weight, dtype))
        for value, weight in zip(values, weights, strict=True)
    ]
    return _sum(writer, terms)


def _sum(writer: Writer, values: Sequence[ir.Value]) -> ir.Value:
    if len(values) == 1:
        return values[0]
    return writer.op("Add" if len(values) == 2 else "Sum", *values)


def _mean(
    writer: Writer,
    values: Sequence[ir.Value],
    weights: Sequence[float] | None,
    dtype: ir.DataType,
) -> ir.Value:
    if weights is None or len(set(weights)) == 1:
        if len(values) == 1:
            return values[0]
        return writer.op("Div", _sum(writer, values), writer.number(len(values), dtype))
    total = sum(weights)
    return _weighted_sum(writer, values, [weight / total for weight in weights], dtype)


def _geometric_mean(
    writer: Writer,
    values: Sequence[ir.Value],
    weights: Sequence[float] | None,
    dtype: ir.DataType,
) -> ir.Value:
    """Take the mean of logarithms; what has the weight 0 is left out, where 0 * log 0 is NaN."""
    if weights is not None:
        values = [value for value, weight in zip(values, weights, strict=True) if weight]
        weights = [weight for weight in weights if weight]
    return writer.op("Exp", _mean(writer, _logs(writer, values), weights, dtype))


def _logs(writer: Writer, values: Sequence[ir.Value]) -> list[ir.Value]:
    return [_log(writer, value) for value in values]


def _log(writer: Writer, value: ir.Value) -> ir.Value:
    """Take the logarithm; of a softmax it is the log_softmax, which underflows nowhere."""
    node = value.producer()
    if is_op(node, "Cast") and node is not None and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or not is_op(node, "Softmax") or node.inputs[0] is None:
        return writer.op("Log", value)
    assert value.dtype is not None
    # Of what is inside a member neither type nor shape need be known; a Softmax keeps both.
    scores = node.inputs[0]
    if node.outputs[0].dtype != value.dtype:
        scores = writer.op("Cast", scores, like=value, to=int(value.dtype))
    axis = node.attributes.get_int("axis", -1)
    return writer.op("LogSoftmax", scores, like=value, axis=axis)


def _median(writer: Writer, values: Sequence[ir.Value]) -> ir.Value:
    count = len(values)
    if count == 1:
        return values[0]
    if count == 2:
        return _halved(writer, writer.op("Add", *values))
    if count == _NETWORK:
        low, high = writer.op("Min", *values[:2]), writer.op("Max", *values[:2])
        return writer.op("Max", low, writer.op("Min", high, values[2]))
    upper = writer.ops(
        "TopK", flat_rows(writer, values), writer.integers(count // 2 + 1), outputs=2, axis=0
    )[0]
    middle = writer.take(upper, count // 2, 0)
    if count % 2 == 0:
        middle = _halved(writer, writer.op("Add", writer.take(upper, count // 2 - 1, 0), middle))
    # TopK puts NaN anywhere, and Max hands it on.
    largest = writer.op("Max", *values)
    return writer.op("Where", writer.op("IsNaN", largest), largest, like(writer, middle, values[0]))


def _halved(writer: Writer, value: ir.Value) -> ir.Value:
    assert value.dtype is not None
    return writer.op("Mul", value, writer.number(0.5, value.dtype))


def _folded(op_type: str, writer: Writer, values: Sequence[ir.Value]) -> ir.Value:
    return values[0] if len(values) == 1 else writer.op(op_type, *values)


def _product(writer: Writer, values: Sequence[ir.Value]) -> ir.Value:
    return functools.reduce(lambda left, right: writer.op("Mul", left, right), values)


_UNWEIGHTED: dict[str, Callable[[Writer, Sequence[ir.Value]], ir.Value]] = {
    "median": _median,
    "min": functools.partial(_folded, "Min"),
    "max": functools.partial(_folded, "Max"),
    "product": _product,
}
