"""Fitted estimators by `module:callable`, and what their models give."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from sklearn.datasets import load_digits

from graphopt.convert import Options, convert
from graphopt.runtime.session import Session

X, Y = (array[:300] for array in load_digits(return_X_y=True))
LETTERS = np.array(list("abcdefghij"))
_FITTED: dict[str, Any] = {}


def fitted() -> Any:
    return _FITTED["estimator"]


def converted(estimator: Any, **options: Any) -> tuple[ir.Model, tuple[str, ...]]:
    _FITTED["estimator"] = estimator
    conversion = convert(f"{__name__}:fitted", framework="sklearn", options=Options(**options))
    return conversion.model, conversion.notes


def outputs(model: ir.Model, **feeds: Any) -> list[Any]:
    return list(Session(model).run(feeds).values())


def interface(model: ir.Model) -> dict[str, tuple[str, list[object]]]:
    return {
        str(value.name): (
            value.dtype.name if value.dtype is not None else "",
            [d if isinstance(d, int) else d.value for d in value.shape or ()],
        )
        for value in (*model.graph.inputs, *model.graph.outputs)
    }
