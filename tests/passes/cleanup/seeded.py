"""Models in ONNX text whose weights are drawn, for rules that compute with weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from before_after import Rule, apply, assert_equal_outputs, declines, feeds_for, model_of

from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Declined, Rewrite

Array = npt.NDArray[Any]


def seeded(text: str, given: Mapping[str, Array] | None = None, *, seed: int = 7) -> ir.Model:
    """Parse a model and make weights of its inputs, all but `x`, `x2` and what starts with `in_`.

    They are drawn from a normal distribution; those that hold variances (`var`) are positive.
    """
    proto = ir.to_proto(model_of(text))
    drawn = feeds_for(proto, seed)
    kept = []
    for value in proto.graph.input:
        if value.name in ("x", "x2") or value.name.startswith("in_"):
            kept.append(value)
            continue
        array = (given or {}).get(value.name, drawn[value.name])
        array = np.abs(array) + 0.5 if value.name.startswith("var") else array
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(np.asarray(array).astype(dtype), value.name)
        )
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    return ir.from_proto(proto)


def ops(model: ir.Model) -> list[str]:
    """Return the operators of all scopes, Constants left out."""
    return [n.op_type for scope in scopes(model) for n in scope.graph if n.op_type != "Constant"]


def check_ops(
    rule: Rule,
    text: str,
    expected: list[str],
    given: Mapping[str, Array] | None = None,
    *,
    rtol: float = 1e-5,
    room: int = 0,
) -> ir.Model:
    """Assert which operators a rule leaves, that outputs are equal, and that no byte was added.

    `room` is for settings that are written down, in models whose nodes have no names to lose.
    """
    model = seeded(text, given)
    before = ir.to_proto(model)
    apply(rule, model)
    assert ops(model) == expected
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert_equal_outputs(before, after, rtol=rtol)
    assert after.ByteSize() <= before.ByteSize() + room
    return model


def check_stays(rule: Rule, text: str, given: Mapping[str, Array] | None = None) -> list[Declined]:
    """Assert that a rule changes nothing; return what it declined."""
    model = seeded(text, given)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    said = apply(rule, model)
    assert not [step for step in said if isinstance(step, Rewrite)]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    return declines(said)
