"""Raising the opset of a model for the operators that quantized weights need."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from graphopt.errors import GraphoptError
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Rewrite
from graphopt.pipeline.snapshot import snapshot
from graphopt.rewrite.constants import opset
from graphopt.rewrite.opsets import is_below, raise_opset


def raising(model: ir.Model, version: int) -> Rewrite | int | None:
    """Return the rewrite that raises a model to an opset.

    Returns:
        None where the model is there; where it cannot be raised, the opset that all of it has.
    """
    if not is_below(model, version):
        return None
    lowest = min(opset(model, scope.function) for scope in scopes(model))
    try:
        raise_opset(snapshot(model), version)
    except GraphoptError:
        return lowest
    return Rewrite(
        at="model",
        why=f"quantized weights need opset {version}, it has {lowest}",
        apply=partial(raise_opset, model, version),
        details={"opset": version},
    )
