"""To a program of `torch.export`: `NAME.pt2`, which PyTorch loads without graphopt."""

from __future__ import annotations

import json
from collections.abc import Sequence

from graphopt.convert.export.contract import Order, Written
from graphopt.convert.export.failures import run_by
from graphopt.convert.export.program import arguments, outputs_of, program_of
from graphopt.convert.model_parity import BATCHES
from graphopt.runtime.feeds import Array, Batch

NOTES = ('load it with torch.export.load("NAME.pt2").module()',)

__all__ = ["BATCHES", "NOTES", "write"]

NAMES = "names.json"
"""The file inside the archive that holds the names of the model's inputs and outputs, in order."""


def write(order: Order) -> Written:
    """Compute the model by PyTorch, follow that with `torch.export`, and read the file again.

    Weights are parameters under their names in the model.

    Args:
        order: What to write, and where.

    Raises:
        GraphoptError: PyTorch is not installed, or has no equal of an operator.
    """
    program = program_of(order)
    import torch

    path = order.folder / f"{order.name}.pt2"
    outputs = [value.name for value in order.model.graph.outputs]
    names = json.dumps({"inputs": program.inputs, "outputs": outputs})
    torch.export.save(program.program, path, extra_files={NAMES: names})
    module = torch.export.load(path).module()

    def run(batch: Batch) -> Sequence[Array]:
        with run_by("PyTorch"), torch.no_grad():
            return outputs_of(module(*arguments(program, batch)))

    return Written(run, program.notes)
