"""The samples on which a conversion of an estimator is proven."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphopt.convert.contract import Conversion, Options
from graphopt.convert.parity import Parity, Reference, checked
from graphopt.convert.sklearn.inputs import Table, examples, from_data
from graphopt.convert.sklearn.reference import Output, values_of
from graphopt.convert.sklearn.ties import decided_rows, reason
from graphopt.convert.ties import tie_note
from graphopt.errors import GraphoptError
from graphopt.runtime.difference import Difference, Tolerance
from graphopt.runtime.feeds import Batch, open_feeds
from graphopt.runtime.session import Session

_ROWS = 512


@dataclass(frozen=True)
class Subject:
    """What is proven.

    Args:
        estimator: A fitted one.
        table: What it takes.
        wanted: What is compared.
        source: What messages call it.
    """

    estimator: Any
    table: Table
    wanted: Sequence[Output]
    source: str


def samples_of(subject: Subject, given: Batch, data: str | None) -> tuple[Batch, list[str]]:
    """Return samples: some that are given, and some that are made up in the range of the fit.

    Args:
        subject: What is proven.
        given: The first of what is given.
        data: What messages call what is given; None: there is nothing.

    Returns:
        The samples, and notes.

    Raises:
        GraphoptError: The data has other inputs or widths, or the estimator refuses samples.
    """
    try:
        own = _made_up(subject)
    except GraphoptError as error:
        if data is None:
            raise
        return from_data(subject.table, given, data), [
            f"compared on {data} alone: made-up samples are refused: {error}"
        ]
    if data is None:
        return own, []
    rows = from_data(subject.table, given, data)
    return {name: np.concatenate([rows[name], own[name]]) for name in own}, []


def _made_up(subject: Subject) -> Batch:
    made = examples(subject.table, subject.estimator, missing=True)
    try:
        _run(subject, made)
    except GraphoptError:
        # What comes behind may not take what is missing.
        made = examples(subject.table, subject.estimator, missing=False)
        _run(subject, made)
    return made


def _run(subject: Subject, batch: Batch) -> None:
    for item in subject.wanted:
        values_of(subject.estimator, subject.table, item, batch, subject.source)


def without_ties(subject: Subject, batch: Batch) -> tuple[Batch, list[str]]:
    """Leave out samples whose label is a matter of rounding, unless that is all of them."""
    kept = decided_rows(subject.estimator, subject.table, subject.wanted, batch, subject.source)
    if kept.all() or not kept.any():
        return batch, []
    return {name: array[kept] for name, array in batch.items()}, [
        tie_note(kept, reason(subject.estimator))
    ]


def prove_data(
    subject: Subject,
    conversion: Conversion,
    reference: Reference,
    options: Options,
    allowed: Mapping[str, Tolerance],
) -> Conversion:
    """Compare all samples that are given, a bounded number at a time.

    Args:
        subject: What is proven.
        conversion: What is held against it.
        reference: The estimator, its inputs named as the model's.
        options: What was asked for; `data` are the samples.
        allowed: What outputs may differ by, in the names that they ended with.

    Returns:
        The conversion with what was compared.

    Raises:
        CheckFailed: An output differs by too much.
        GraphoptError: The data has other inputs or widths, or the estimator refuses it.
    """
    assert options.data is not None
    session = Session(conversion.model, title="the converted model")
    names = [value.name or "" for value in conversion.model.graph.inputs]
    differences: dict[str, Difference] = {}
    total = compared = 0
    for batch in _batches(subject.table, options.data):
        count = len(next(iter(batch.values())))
        kept = decided_rows(subject.estimator, subject.table, subject.wanted, batch, subject.source)
        total, compared = total + count, compared + int(kept.sum())
        if not kept.any():
            continue
        feeds = {
            name: batch[item.name][kept]
            for name, item in zip(names, subject.table.inputs, strict=True)
        }
        found = session.run(feeds)
        for (name, array), expected in zip(found.items(), reference(feeds), strict=True):
            tolerance = options.tolerance or allowed.get(name)
            differences.setdefault(name, Difference(tolerance)).add(expected, array)
    parity = [
        checked(
            f"output {name} on {compared} samples of {options.data} differs from the source"
            " framework",
            Parity({"batch": compared}, name, difference.max_abs, difference.allowed),
            difference,
        )
        for name, difference in differences.items()
    ]
    notes = []
    if compared < total:
        left, why = total - compared, reason(subject.estimator)
        notes.append(f"{left} of {total} samples of {options.data} were not compared: {why}")
    return replace(
        conversion,
        parity=(*conversion.parity, *parity),
        notes=(*conversion.notes, *notes),
    )


def _batches(table: Table, data: str) -> Iterator[Batch]:
    for batch in open_feeds(data).batches(_ROWS):
        yield from_data(table, batch, data)
