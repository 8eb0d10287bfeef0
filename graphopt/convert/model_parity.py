"""Whether another runtime, or another form of a model, computes what ONNX Runtime makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.convert.parity import REFUSED, Parity, checked, listed
from graphopt.errors import CheckFailed
from graphopt.runtime.compare import Candidate, Comparison
from graphopt.runtime.difference import Tolerance
from graphopt.runtime.feeds import Batch, Feeds, open_feeds
from graphopt.runtime.session import Session
from graphopt.runtime.synthetic import synthetic_feeds

_SAMPLES = 4
BATCHES = (4, 3, 1)
"""Samples that run together, where the batch is free."""


def feeds_of(model: ir.Model, data: str | None) -> Feeds:
    """Read the inputs to compare on, or make some up.

    Raises:
        GraphoptError: The data do not fit the model, or nothing can be made up for it.
    """
    if data is None:
        return synthetic_feeds(model, samples=_SAMPLES)
    return open_feeds(data).for_model(model).take(_SAMPLES)


def check_candidate(
    model: ir.Model,
    reference: Session,
    candidate: Candidate,
    feeds: Feeds,
    tolerances: Mapping[str, Tolerance],
    samples: Sequence[int] = BATCHES,
) -> tuple[tuple[Parity, ...], tuple[str, ...]]:
    """Run both on the same inputs, at several batch sizes where the batch is free.

    Args:
        model: What the reference runs.
        reference: A session on it.
        candidate: What must compute the same.
        feeds: What `feeds_of` returns.
        tolerances: What outputs may differ by, by name, `*` for all others; where there is none,
            what float reassociation explains.
        samples: The batch sizes.

    Returns:
        What was compared, and a note for each of the further sizes that the reference refuses.

    Raises:
        CheckFailed: An output differs by more than is allowed, or one of the two does not run.
    """
    found: list[Parity] = []
    notes: list[str] = []
    for batch, *more in _sized(model, feeds, samples):
        comparison = Comparison(reference, candidate, tolerances=tolerances)
        sizes = _sizes(model, batch)
        try:
            for each in (batch, *more):
                comparison.run(each)
        except CheckFailed as error:
            # What varies along axis 0 need not be a batch, nor vary where other sizes stay.
            if not found or _runs(reference, batch):
                raise
            notes.append(f"{REFUSED}{listed(sizes)}: {error.cause}")
            continue
        where = f" at {listed(sizes)}" if sizes else ""
        found += [
            checked(
                f"output {name}{where} of {candidate.title} differs from {reference.title}'s",
                Parity(sizes, name, difference.max_abs, difference.allowed),
                difference,
            )
            for name, difference in comparison.differences.items()
        ]
    return tuple(found), tuple(notes)


def _runs(reference: Session, batch: Batch) -> bool:
    try:
        reference.run(batch)
    except CheckFailed:
        return False
    return True


def _sized(model: ir.Model, feeds: Feeds, samples: Sequence[int]) -> list[list[Batch]]:
    """The same samples in batches of several sizes; of one where the model fixes it."""
    found: list[list[Batch]] = []
    for size in samples:
        batches = list(feeds.batches(size))
        sizes = _sizes(model, batches[0])
        if all(_sizes(model, others[0]) != sizes for others in found):
            found.append([batch for batch in batches if _sizes(model, batch) == sizes])
    return found


def _sizes(model: ir.Model, batch: Batch) -> dict[str, int]:
    """Sizes of the dynamic dimensions; those without a name by input and axis."""
    return {
        dim.value or f"{value.name}_dim_{axis}": batch[value.name].shape[axis]
        for value in model.graph.inputs
        if value.name in batch
        for axis, dim in enumerate(value.shape or ())
        if isinstance(dim, ir.SymbolicDim)
    }
