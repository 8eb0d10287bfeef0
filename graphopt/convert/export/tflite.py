"""To LiteRT, formerly TensorFlow Lite: `NAME.tflite`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.convert.export.contract import SIGNATURE, Order, Run, Written
from graphopt.convert.export.failures import run_by
from graphopt.convert.export.program import Program, arguments, program_of, quiet_torch
from graphopt.convert.finishing import require
from graphopt.convert.reasons import first_line
from graphopt.convert.tensorflow.quiet import quiet as quiet_tensorflow
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, Batch

NOTES: tuple[str, ...] = ()

BATCHES = (1,)
"""Sizes are fixed, and what runs on a device runs on one sample."""


def write(order: Order) -> Written:
    """Compute the model by PyTorch, and convert that with litert-torch.

    litert-torch gives files of fixed sizes: those of the example.

    Args:
        order: What to write, and where.

    Raises:
        GraphoptError: litert-torch is not installed, or does not take the model.
    """
    require(["litert_torch"], "tflite-export", "litert-torch")
    program = program_of(order, dynamic=False)
    path = order.folder / f"{order.name}.tflite"
    try:
        with quiet_tensorflow(), quiet_torch():
            import litert_torch

            named = dict(zip(program.parameters, arguments(program, order.example), strict=True))
            converted = litert_torch.convert(program.module, sample_kwargs=named)
            converted.export(str(path))
    except Exception as error:
        # What torch.export, JAX and the converter of MLIR raise.
        raise GraphoptError(
            f"litert-torch does not take it: {first_line(error)}", file=order.source
        ) from error
    return Written(_runner(path.read_bytes(), program), program.notes)


def _runner(content: bytes, program: Program) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    with quiet_tensorflow():
        runner: Any = Interpreter(model_content=content).get_signature_runner(SIGNATURE)

    def run(batch: Batch) -> Sequence[Array]:
        fed = {
            parameter: np.asarray(batch[name], order="C")
            for name, parameter in zip(program.inputs, program.parameters, strict=True)
        }
        with run_by("LiteRT"), quiet_tensorflow():
            found = runner(**fed)
        return [np.asarray(found[f"output_{index}"]) for index in range(len(found))]

    return run
