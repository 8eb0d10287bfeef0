"""Instrument: onnx.checker after each pass, on the model without its weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

import onnx
import onnx_ir as ir

from graphopt.errors import CheckFailed
from graphopt.model.skeleton import LOCATION, skeleton
from graphopt.pipeline.contract import Context
from graphopt.pipeline.instrument import Instrument, Step


class Checker(Instrument):
    """Fails a pass that leaves a model which `onnx.checker` refuses.

    Types and shapes are inferred and checked too (`full_check`), unless the model that came in
    fails that already. The check sees structure, types and small tensors; weights stay where they
    are, so it takes models of any size.
    """

    name: ClassVar[str] = "checker"

    def __init__(self) -> None:
        self._full = True

    def start(self, model: ir.Model, context: Context) -> None:
        """Find out how much of the check the model passes before any pass.

        Raises:
            CheckFailed: It passes none of it.
        """
        del context
        self._full = check_problem(model, full=True) is None
        if not self._full and (problem := check_problem(model, full=False)):
            raise CheckFailed(
                f"onnx.checker refuses the model before any pass: {problem}",
                fix="run without checks: --no-verify",
            )

    def after(self, step: Step) -> None:
        """Check what the pass left.

        Raises:
            CheckFailed: The checker refuses it.
        """
        if step.changed and (problem := check_problem(step.after, full=self._full)):
            raise CheckFailed(f"onnx.checker refuses the result: {problem}")


def check_problem(model: ir.Model, *, full: bool) -> str | None:
    """Return what `onnx.checker` has against a model; None: nothing.

    Args:
        model: Stays as it is; its weights are not read.
        full: Infer shapes and types, and check them.
    """
    proto = skeleton(model)
    with tempfile.TemporaryDirectory(prefix="graphopt-check-") as folder:
        # The checker wants the files that weights are said to be in, and does not read them.
        (Path(folder) / LOCATION).touch()
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        try:
            onnx.checker.check_model(path, full_check=full)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            return " ".join(str(error).split())
    return None
