"""To OpenVINO's intermediate representation: `NAME.xml` and `NAME.bin`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx_ir.passes.common import InlinePass

from graphopt.convert.export.contract import Order, Run, Written
from graphopt.convert.export.failures import run_by
from graphopt.convert.finishing import require
from graphopt.convert.model_parity import BATCHES
from graphopt.convert.reasons import first_line
from graphopt.errors import GraphoptError
from graphopt.model import save
from graphopt.runtime.feeds import Array, Batch

_PLACES = ("Exception from", "Check '", "FrontEnd API failed")

NOTES = (
    "compared in float32; where a processor has bfloat16 OpenVINO computes in that unless"
    " INFERENCE_PRECISION_HINT is f32",
)

__all__ = ["BATCHES", "NOTES", "write"]


def write(order: Order) -> Written:
    """Convert a model by OpenVINO's own reader of ONNX, and compile what was written on the CPU.

    Weights keep their types: OpenVINO would store floats in half precision by default. It computes
    in the types of the model, too.

    Args:
        order: What to write, and where.

    Raises:
        GraphoptError: OpenVINO is not installed, or does not take the model.
    """
    require(["openvino"], "openvino", "OpenVINO")
    import openvino

    path = order.folder / f"{order.name}.xml"
    try:
        with _readable(order) as source:
            converted = openvino.convert_model(str(source))
        openvino.save_model(converted, str(path), compress_to_fp16=False)
        compiled = openvino.Core().compile_model(
            str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
        )
    except Exception as error:
        # OpenVINO raises RuntimeError and its own errors for what it cannot read or compile.
        raise GraphoptError(
            f"OpenVINO does not take it: {first_line(error, _PLACES)}", file=order.source
        ) from error
    return Written(_runner(compiled))


@contextlib.contextmanager
def _readable(order: Order) -> Iterator[Path]:
    """Give OpenVINO a file that it reads: binary, and without functions."""
    if order.source.suffix == ".onnx" and not order.model.functions:
        yield order.source
        return
    model = order.model.clone()
    if model.functions:
        InlinePass()(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(model, path)
        yield path


def _runner(compiled: Any) -> Run:
    def run(batch: Batch) -> Sequence[Array]:
        with run_by("OpenVINO", _PLACES):
            found = compiled({name: np.asarray(array, order="C") for name, array in batch.items()})
        # By position: an output that is an input has the latter's name.
        return [np.asarray(found[output]) for output in compiled.outputs]

    return run
