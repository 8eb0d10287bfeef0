"""Whether an exported model computes what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.convert.export.contract import Run
from graphopt.convert.inner_precision import inner_tolerances, required_inputs
from graphopt.convert.model_parity import check_candidate
from graphopt.convert.parity import Parity
from graphopt.errors import CheckFailed
from graphopt.runtime.difference import Tolerance
from graphopt.runtime.feeds import Array, Batch, Feeds
from graphopt.runtime.session import Session


class _Exported:
    """What was written, with the names of the model's outputs."""

    title = "the exported model"

    def __init__(self, run: Run, output_names: Sequence[str]) -> None:
        self._run, self.output_names = run, output_names

    def run(self, batch: Batch, /) -> Batch:
        found = self._run(batch)
        if len(found) != len(self.output_names):
            raise CheckFailed(
                f"{self.title} has {len(found)} outputs, the model has {len(self.output_names)}"
            )
        return dict(zip(self.output_names, found, strict=True))


def check_exported(
    model: ir.Model,
    run: Run,
    feeds: Feeds,
    tolerance: Tolerance | None,
    samples: Sequence[int],
) -> tuple[tuple[Parity, ...], tuple[str, ...]]:
    """Run both on the same inputs, at several batch sizes where the batch is free.

    Args:
        model: The model that was exported.
        run: Runs the exported one: inputs by name to outputs in order.
        feeds: The inputs, of `feeds_of`.
        tolerance: What the outputs may differ by; None: what float reassociation explains.
        samples: The batch sizes.

    Returns:
        What was compared, and a note for each set of sizes that ONNX Runtime refuses.

    Raises:
        CheckFailed: An output differs, or ONNX Runtime does not run the model.
    """
    session = Session(model, title="ONNX Runtime")
    exported = _Exported(run, session.output_names)
    tolerances = _tolerances(model, session, feeds) if tolerance is None else {"*": tolerance}
    return check_candidate(model, session, exported, feeds, tolerances, samples)


def _tolerances(model: ir.Model, session: Session, feeds: Feeds) -> Mapping[str, Tolerance]:
    """Return what ONNX Runtime's own outputs may be off by, where their type does not say it."""
    example = next(feeds.batches(1))
    inputs = [example[name] for name in required_inputs(model)]

    def run(batch: Batch) -> Sequence[Array]:
        found = session.run(batch)
        return [found[name] for name in session.output_names]

    return inner_tolerances(model, inputs, run, Options())
