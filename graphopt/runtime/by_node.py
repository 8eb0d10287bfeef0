"""Where two models part: inner values of the same name, compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.runtime.difference import Difference, as_tensors
from graphopt.runtime.feeds import Array, Feeds
from graphopt.runtime.providers import Provider
from graphopt.runtime.session import Session

_EXPOSED_AT_ONCE = 32
"""Values that are outputs of one session: they are all held for one batch."""


@dataclass(frozen=True)
class NodeError:
    """The error of one inner value, where both models have one of that name.

    Args:
        value: The value.
        node: The name of the candidate's node that computes it.
        op_type: Its operator.
        max_abs: Largest absolute difference.
        sqnr_db: Signal to noise in dB; inf when equal.
        equal: Whether reassociation explains the difference; None: the models have other dtypes or
            shapes there, so that it cannot be told.
    """

    value: str
    node: str
    op_type: str
    max_abs: float
    sqnr_db: float
    equal: bool | None


def compare_nodes(
    reference: ir.Model,
    candidate: ir.Model,
    feeds: Feeds,
    *,
    providers: Sequence[str | Provider] = ("cpu",),
    batch: int = 32,
) -> tuple[NodeError, ...]:
    """Compare the values of the main graph that both models compute, in the candidate's order.

    ONNX Runtime does not fuse across a value that is looked at: both models run here as they are
    written, and not as they are optimized.

    Args:
        reference: Runs on the CPU.
        candidate: Runs on `providers`.
        feeds: Inputs of both.
        providers: For the candidate.
        batch: Samples per run.

    Raises:
        CheckFailed: Either model does not run.
    """
    feeds = feeds.for_model(reference)
    theirs = {value.name for node in reference.graph for value in node.outputs}
    shared = [
        (value.name, node)
        for node in candidate.graph
        for value in node.outputs
        if value.name and value.name in theirs
    ]
    errors: list[NodeError] = []
    for chunk in _chunks(shared):
        names = [name for name, _ in chunk]
        first = Session(reference, expose=names, title="reference")
        second = Session(candidate, providers, expose=names, title="candidate")
        differences = _differences(first, second, names, feeds, batch)
        errors.extend(_node_error(name, node, differences[name]) for name, node in chunk)
    return tuple(errors)


def first_parting(errors: Sequence[NodeError]) -> NodeError | None:
    """The first value that differs by more than reassociation explains."""
    return next((error for error in errors if error.equal is False), None)


def ranked(errors: Sequence[NodeError]) -> list[NodeError]:
    """The values that differ, those with the lowest SQNR first."""
    return sorted(
        (error for error in errors if error.equal is not None and error.sqnr_db < math.inf),
        key=lambda error: (error.sqnr_db, -error.max_abs),
    )


def _chunks(items: Sequence[tuple[str, ir.Node]]) -> Iterator[Sequence[tuple[str, ir.Node]]]:
    for start in range(0, len(items), _EXPOSED_AT_ONCE):
        yield items[start : start + _EXPOSED_AT_ONCE]


def _differences(
    first: Session, second: Session, names: Sequence[str], feeds: Feeds, batch: int
) -> dict[str, Difference | None]:
    """One difference a value; None where dtypes or shapes are not the same."""
    differences: dict[str, Difference | None] = {name: Difference() for name in names}
    for samples in feeds.batches(batch):
        expected, actual = first.run(samples), second.run(samples)
        for name in names:
            difference = differences[name]
            if difference is None:
                continue
            pairs = _pairs(expected[name], actual[name])
            if pairs is None:
                differences[name] = None
                continue
            for a, b in pairs:
                difference.add(a, b)
    return differences


def _pairs(expected: object, actual: object) -> list[tuple[Array, Array]] | None:
    want, have = as_tensors(expected), as_tensors(actual)
    alike = len(want) == len(have) and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(want, have, strict=True)
    )
    return list(zip(want, have, strict=True)) if alike else None


def _node_error(name: str, node: ir.Node, difference: Difference | None) -> NodeError:
    if difference is None:
        return NodeError(name, node.name or "", node.op_type, math.nan, math.nan, None)
    return NodeError(
        name,
        node.name or "",
        node.op_type,
        difference.max_abs,
        difference.sqnr_db,
        difference.equal,
    )
