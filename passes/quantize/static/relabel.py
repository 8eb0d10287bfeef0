"""Operators that are the same integers with another scale and zero point.

y = clip(a * x + b, 0, 1) with x = (q - z) * s is y = (clip(q, z', q1) - z') * (a * s) where
z' = z - b / (a * s), if that is an integer of the type: the range of x must reach to -b / a, and
hold it on its grid. So HardSigmoid runs on integers of any runtime, and x * HardSigmoid(x)
(HardSwish) as the product of a tensor with itself under two names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import is_op, scalar
from graphopt.rewrite.grid import Grid
from graphopt.rewrite.uses import only_user


@dataclass(frozen=True)
class Line:
    """y = slope * x + offset, limited to 0 to 1 or not at all.

    Args:
        slope: Positive.
        offset: 0 or positive.
        limited: Whether y is limited.
    """

    slope: float
    offset: float = 0.0
    limited: bool = False

    @property
    def root(self) -> float:
        """How far below 0 the x lies where y is 0."""
        return self.offset / self.slope

    def grid(self, given: Grid) -> Grid:
        """Return the grid of y where x is on a grid that `reaching` has made."""
        scale = (given.scale.astype(np.float64) * self.slope).astype(given.scale.dtype)
        if not self.offset:
            return replace(given, scale=scale)
        zero = 0 if given.zero_point is None else int(given.zero_point)
        moved = zero - round(self.root / float(given.scale))
        return replace(given, scale=scale, zero_point=np.asarray(moved, np.int32))


def line(node: ir.Node) -> Line | None:
    """Return the line that a node computes, of its first input that is no constant."""
    if is_op(node, "HardSigmoid"):
        slope = node.attributes.get_float("alpha", 0.2)
        offset = node.attributes.get_float("beta", 0.5)
        if slope is None or offset is None or slope <= 0 or offset < 0:
            return None
        return Line(slope, offset, limited=True)
    if not is_op(node, "Mul", "Div"):
        return None
    factors = [scalar(value) for value in node.inputs]
    found = factors[1] if factors[1] is not None or is_op(node, "Div") else factors[0]
    if found is None or not 0 < found < float("inf") or _spreads(node):
        return None
    return Line(1.0 / found if is_op(node, "Div") else float(found))


def _spreads(node: ir.Node) -> bool:
    """Whether the constant adds axes to the result."""
    ranks = [len(v.const_value.shape) for v in node.inputs if v is not None and v.const_value]
    return any(rank > 1 for rank in ranks)


def reaching(grid: Grid, root: float) -> Grid | None:
    """Return a grid, slightly coarser than a given one, that has -root on it.

    Returns:
        None where the step is larger than that.
    """
    steps = int(root / float(grid.scale))
    if steps < 1:
        return None
    # The zero point stays: with a larger step, both ends reach farther than before.
    return replace(grid, scale=np.asarray(root / steps, grid.scale.dtype))


def spans(low: float, high: float, root: float, *, only_there: bool) -> tuple[float, float]:
    """Return a range that reaches to -root; nothing below, where y alone is read there."""
    return (-root if only_there else min(low, -root)), high


def gates_itself(value: ir.Value) -> bool:
    """Whether all that reads a value is a HardSigmoid and its product with that value.

    Below the root of the HardSigmoid, the product is 0 whatever the value is.
    """
    if value.is_graph_output():
        return False
    readers = {use.node for use in value.uses()}
    gates = [node for node in readers if is_op(node, "HardSigmoid")]
    products = readers - set(gates)
    if len(gates) != 1 or len(products) != 1:
        return False
    gate = gates[0].outputs[0]
    scaled = only_user(gate)
    if scaled is not None and line(scaled) is not None:
        gate = scaled.outputs[0]
    product = products.pop()
    return (
        is_op(product, "Mul")
        and only_user(gate) is product
        and set(product.inputs) == {value, gate}
    )
