"""ONNX Runtime sessions on models in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath

import onnx_ir as ir

from graphopt.errors import CheckFailed
from graphopt.runtime.feeds import Batch


class Session:
    """A model ready to run. Thread-safe as ONNX Runtime's own session is.

    Args:
        model: A model, or the path of one.
        providers: Short names (`cpu`, `cuda`) or full names of execution providers, preferred first.
        expose: Names of inner values of the main graph to return beside the outputs.
        title: What messages call this model.
    """

    def __init__(
        self,
        model: ir.Model | str | PathLike[str],
        providers: Sequence[str] = ("cpu",),
        *,
        expose: Sequence[str] = (),
        title: str | None = None,
    ) -> None:
        import onnxruntime

        self.title = title or "model"
        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        content: bytes | str
        if isinstance(model, ir.Model):
            if expose:
                model = model.clone()
                values = {value.name: value for node in model.graph for value in node.outputs}
                model.graph.outputs.extend(values[name] for name in expose)
            content = ir.to_proto(model).SerializeToString()
        else:
            content = fspath(model)
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CheckFailed(f"{self.title} does not load: {error}") from None
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self.output_names = tuple(value.name for value in self._session.get_outputs())

    def run(self, batch: Batch) -> Batch:
        """Run one batch; return the outputs (and exposed values) by name."""
        try:
            return dict(zip(self.output_names, self._session.run(None, batch), strict=True))
        except Exception as error:
            raise CheckFailed(f"{self.title} does not run: {error}") from None
