"""What each kind of expression computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ensembles import outcome
from graphopt.ensembles.expression import (
    Activation,
    Applied,
    Cascade,
    Chain,
    Combine,
    Expression,
    Output,
    Soup,
    Stack,
    Subset,
    Sum,
    Tta,
    Vote,
)
from graphopt.ensembles.ports import Bundle, is_float
from graphopt.ensembles.reference import numerics
from graphopt.ensembles.reference.cells import Absent, Array, Outputs, absent
from graphopt.ensembles.reference.site import Site, described
from graphopt.ensembles.reference.stages import cascade
from graphopt.ensembles.reference.variants import stack, subset, tta
from graphopt.ensembles.unparse import title
from graphopt.ensembles.wiring import align
from graphopt.errors import GraphoptError
from graphopt.runtime.layout import FLOATS

Operands = list[Array]


def output(expression: Output, site: Site) -> Outputs:
    """Pick an output."""
    bundle = site.evaluate(expression.of)
    place = outcome.picked(described(bundle), expression.name, title(expression.of))
    return (bundle[place],)


def chain(expression: Chain, site: Site) -> Outputs:
    """Feed the second from the first."""
    inner = site.after(site.evaluate(expression.first))
    bundle = inner.evaluate(expression.second)
    inner.environment.check(title(expression.second))
    return bundle


def applied(expression: Applied, site: Site) -> Outputs:
    """Feed inputs by name."""
    bindings = {}
    for name, of in expression.bindings:
        bundle = site.evaluate(of)
        outcome.single(described(bundle), title(of), f"input {name!r}")
        bindings[name] = bundle[0]
    inner = site.binding(bindings)
    bundle = inner.evaluate(expression.of)
    inner.environment.check(title(expression.of))
    return bundle


def weighted_sum(expression: Sum, site: Site) -> Outputs:
    """Add up, with the weights as they are."""
    weights = [weight for weight, _ in expression.terms]
    return _arithmetic(
        [of for _, of in expression.terms],
        "sum",
        site,
        lambda arrays: numerics.summed(arrays, weights, expression.bias),
    )


def combine(expression: Combine, site: Site) -> Outputs:
    """Combine element by element."""
    function, weights = expression.function, expression.weights
    if function == "geometric_mean":
        return _geometric_mean(expression, site)
    return _arithmetic(
        expression.of, function, site, lambda arrays: numerics.combined(function, arrays, weights)
    )


def _geometric_mean(expression: Combine, site: Site) -> Outputs:
    # The logarithm of a softmax that is 0 in floats is a number all the same.
    is_softmax = [isinstance(of, Activation) and of.function == "softmax" for of in expression.of]
    operands = [
        Activation("log_softmax", of.of, of.axis)
        if isinstance(of, Activation) and of.function == "softmax"
        else of
        for of in expression.of
    ]

    weights = expression.weights or (1.0,) * len(expression.of)

    def compute(arrays: Operands) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = [
                array if known else np.log(array)
                for array, known, weight in zip(arrays, is_softmax, weights, strict=True)
                if weight
            ]
            mean = numerics.averaged(logs, [weight for weight in weights if weight])
            return np.asarray(np.exp(mean))

    titles = [title(of) for of in expression.of]
    return _arithmetic(operands, "geometric_mean", site, compute, titles)


def vote(expression: Vote, site: Site) -> Outputs:
    """Count votes."""
    bundles = [site.evaluate(of) for of in expression.of]
    titles = [title(of) for of in expression.of]
    ports = outcome.voted([described(bundle) for bundle in bundles], titles, expression.ties)

    def compute(arrays: Operands, dtype: ir.DataType) -> Array:
        if dtype in FLOATS:
            scores = [array.astype(dtype.numpy()) for array in arrays]
            return numerics.shares(scores, expression.weights, expression.ties, expression.axis)
        return numerics.winning_labels(arrays, expression.weights, expression.ties)

    return _by_output(bundles, titles, "vote", ports, site, compute)


def activation(expression: Activation, site: Site) -> Outputs:
    """Compute an activation of each float output."""
    bundle = site.evaluate(expression.of)
    function, axis = expression.function, expression.axis
    ports = outcome.activated(described(bundle), function, axis, title(expression.of))
    arrays = [
        array
        if isinstance(array, Absent) or not is_float(item.port)
        else numerics.activated(function, array, axis)
        for item, array in zip(bundle, site.arrays(bundle), strict=True)
    ]
    return site.made(ports, arrays, bundle)


def soup(expression: Soup, site: Site) -> Outputs:
    """Refuse what is a model of its own."""
    raise GraphoptError(
        f"{title(expression)} is a model of its own",
        fix="resolve it, and give the model as a member",
    )


def _arithmetic(
    of: Sequence[Expression],
    function: str,
    site: Site,
    compute: Callable[[Operands], Array],
    titles: Sequence[str] | None = None,
) -> Outputs:
    bundles = [site.evaluate(one) for one in of]
    titles = titles or [title(one) for one in of]
    ports = outcome.arithmetic([described(bundle) for bundle in bundles], titles, function)

    def converted(arrays: Operands, dtype: ir.DataType) -> Array:
        wide = dtype.numpy() if dtype.itemsize >= 4 else np.dtype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return compute([array.astype(wide) for array in arrays]).astype(dtype.numpy())

    return _by_output(bundles, titles, function, ports, site, converted)


def _by_output(
    bundles: Sequence[Outputs],
    titles: Sequence[str],
    function: str,
    ports: Bundle,
    site: Site,
    compute: Callable[[Operands, ir.DataType], Array],
) -> Outputs:
    orders = align([described(bundle) for bundle in bundles], titles, function)
    arrays = [site.arrays(bundle) for bundle in bundles]
    found: list[Array | Absent] = []
    for index, port in enumerate(ports):
        needed = [own[order[index]] for own, order in zip(arrays, orders, strict=True)]
        operands = [operand for operand in needed if not isinstance(operand, Absent)]
        if (missing := absent(needed)) is not None:
            found.append(missing)
            continue
        if len({operand.shape for operand in operands}) > 1:
            shapes = ", ".join(str(list(operand.shape)) for operand in operands)
            raise GraphoptError(f"{function}: {port.name!r} has the shapes {shapes}")
        assert port.dtype is not None
        found.append(compute(operands, port.dtype))
    return site.made(ports, found, bundles[0])


RULES: dict[type[Expression], Callable[[Any, Site], Outputs]] = {
    Output: output,
    Chain: chain,
    Applied: applied,
    Sum: weighted_sum,
    Combine: combine,
    Vote: vote,
    Activation: activation,
    Cascade: cascade,
    Stack: stack,
    Tta: tta,
    Subset: subset,
    Soup: soup,
}
