"""Whether an exported model computes what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.convert.export.contract import Run
from graphopt.convert.inner_precision import inner_tolerances
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
        return dict(zip(self.output_names, self.outputs(batch), strict=True))

    def outputs(self, batch: Batch) -> Sequence[Array]:
        found = self._run(batch)
        if len(found) != len(self.output_names):
            raise CheckFailed(
                f"{self.title} has {len(found)} outputs, the model has {len(self.output_names)}"
            )
        return found


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
    if tolerance is None:
        example = next(feeds.batches(samples[0]))
        inputs = [
            example[value.name or ""] for value in model.graph.inputs if value.name in example
        ]
        tolerances = inner_tolerances(model, inputs, exported.outputs, Options())
    else:
        tolerances = {"*": tolerance}
    return check_candidate(model, session, exported, feeds, tolerances, samples)
