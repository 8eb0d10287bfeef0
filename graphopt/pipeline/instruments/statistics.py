"""Instrument: what each pass does to nodes, parameters, bytes, MACs and sparsity."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from graphopt.model.facts import Facts, measure
from graphopt.pipeline.instrument import Instrument, Step


class Statistics(Instrument):
    """Measures the model before and after each pass; an unchanged model is measured once.

    Args:
        sparsity: Count zeros, which reads every weight.
    """

    name: ClassVar[str] = "statistics"

    def __init__(self, *, sparsity: bool = True) -> None:
        self._sparsity = sparsity
        self._last: tuple[ir.Model, Facts] | None = None

    def after(self, step: Step) -> None:
        """Write the facts into the step."""
        step.facts_before = self._facts(step.before)
        step.facts_after = self._facts(step.after)

    def _facts(self, model: ir.Model) -> Facts:
        if self._last is None or self._last[0] is not model:
            self._last = (model, measure(model, sparsity=self._sparsity))
        return self._last[1]
