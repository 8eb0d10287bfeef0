"""Divisions of constants that kill the process: ONNX Runtime computes them while it loads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import CheckFailed
from graphopt.model.constants import held_tensor, is_op
from graphopt.model.scopes import scopes

_TRAPPING = frozenset({ir.DataType.INT32, ir.DataType.INT64})
"""Narrower integers are widened first; a division by zero ONNX Runtime refuses itself."""


def check_divisions(model: ir.Model) -> None:
    """Refuse a model that divides the smallest integer by -1, both constant.

    The quotient is one more than the type holds, for which x86 raises SIGFPE: no exception, but
    the end of the process. What only turns out while a model runs is not seen here.

    Raises:
        CheckFailed: It does, in a graph, a body or a function.
    """
    for scope in scopes(model):
        for node in scope.graph:
            if is_op(node, "Div", "Mod") and len(node.inputs) == 2 and _traps(*node.inputs):
                raise CheckFailed(
                    f"the {node.op_type} node {node.name or node.outputs[0].name!r} divides the "
                    "smallest integer by -1, which would kill ONNX Runtime",
                    fix="correct the constants of that node",
                )


def _traps(dividend: ir.Value | None, divisor: ir.Value | None) -> bool:
    below, above = _integers(divisor), _integers(dividend)
    if below is None or above is None or not (below == -1).any():
        return False
    try:
        return bool(((above == np.iinfo(above.dtype).min) & (below == -1)).any())
    except ValueError:
        return False  # They do not broadcast, which ONNX Runtime says itself.


def _integers(value: ir.Value | None) -> npt.NDArray[np.int32 | np.int64] | None:
    if value is None:
        return None
    producer = value.producer()
    tensor = value.const_value if producer is None else held_tensor(producer)
    if tensor is None or tensor.dtype not in _TRAPPING:
        return None
    return np.asarray(tensor.numpy())
