"""How the values of all lanes lie in one tensor, and how to get from one layout to another."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array
from graphopt.rewrite.dims import Dim, Dims
from passes.merge.stack_members.drafts import Attribute, Draft, Wire, lazy, literal


class Refused(Exception):
    """Why nodes cannot be stacked."""


class Layout(enum.Enum):
    """Where the lanes lie. For values of shape [N, C, ...] and K lanes."""

    LEAD = "lead"
    """[K, N, C, ...]."""

    MIDDLE = "middle"
    """[N, K, C, ...]: as CHANNELS lies in memory."""

    CHANNELS = "channels"
    """[N, K * C, ...]."""

    COLUMNS = "columns"
    """[1, K * C, N, 1] for values of shape [N, C]: a product with weights is a Conv over the rows.

    ONNX Runtime packs weights of a Conv beforehand, and adds bias and activation on the way. Of a
    batch of products it does neither. It refuses a Conv over no rows, though.
    """


@dataclass(frozen=True, eq=False)
class Lanes:
    """The values of all lanes in one tensor.

    Args:
        wire: The tensor.
        layout: Where the lanes lie in it.
        shape: Of the value of one lane.
    """

    wire: Wire
    layout: Layout
    shape: Dims

    @property
    def rank(self) -> int:
        """The number of dimensions of the value of one lane."""
        return len(self.shape)

    @property
    def axis(self) -> int:
        """Where the axis of the lanes lies, in the layouts that have one."""
        return _AXIS[self.layout]

    def shifted(self, axis: int) -> int:
        """Return where an axis of the value of one lane lies (not negative: see `rank`)."""
        return axis if self.layout is Layout.CHANNELS or axis < self.axis else axis + 1


_AXIS = {Layout.LEAD: 0, Layout.MIDDLE: 1}


@dataclass(frozen=True, eq=False)
class Shared:
    """A value that all lanes read."""

    wire: Wire
    shape: Dims | None
    value: ir.Value


@dataclass(frozen=True, eq=False)
class Weights:
    """Constants of equal type and shape, one for each lane."""

    tensors: tuple[ir.TensorProtocol, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each."""
        return tuple(int(size) for size in self.tensors[0].shape.numpy())

    @property
    def dtype(self) -> ir.DataType:
        """Of each."""
        return self.tensors[0].dtype

    def stacked(self, axis: int = 0, change: Callable[[Array], Array] | None = None) -> Wire:
        """Plan all of them along a new axis, each changed before."""
        return self._joined(lambda arrays: np.stack(arrays, axis), change)

    def concatenated(self, axis: int = 0, change: Callable[[Array], Array] | None = None) -> Wire:
        """Plan all of them along an axis that they have, each changed before."""
        return self._joined(lambda arrays: np.concatenate(arrays, axis), change)

    def _joined(
        self, join: Callable[[list[Array]], Array], change: Callable[[Array], Array] | None
    ) -> Wire:
        tensors, turn = self.tensors, change or (lambda array: array)
        # Shapes are found out on arrays that take no memory.
        example = np.broadcast_to(np.zeros((), np.int8), self.shape)
        shape = _joined_shape(turn(example).shape, join, len(tensors))
        return lazy(lambda: join([turn(t.numpy()) for t in tensors]), self.dtype, shape)


def _joined_shape(
    shape: tuple[int, ...], join: Callable[[list[Array]], Array], count: int
) -> tuple[int, ...]:
    """Return the shape of what a function makes of arrays, from two small ones."""
    one = np.zeros([1] * len(shape), np.int8)
    two = join([one, one]).shape
    if len(two) > len(shape):
        axis = two.index(2)
        return (*shape[:axis], count, *shape[axis:])
    axis = two.index(2)
    return tuple(size * count if i == axis else size for i, size in enumerate(shape))


Operand = Lanes | Shared | Weights | None


class Build:
    """Plans the nodes of a group of lanes.

    Args:
        count: The number of lanes.
        opset: The version of ONNX's own operators.
        columns: Whether products are computed in columns where they can be.
    """

    def __init__(self, count: int, opset: int, *, columns: bool = False) -> None:
        self.count = count
        self.opset = opset
        self.columns = columns
        self._converted: dict[tuple[Lanes, Layout], Lanes] = {}

    def node(
        self, op_type: str, inputs: Sequence[Wire | None], domain: str = "", **attributes: Attribute
    ) -> Wire:
        """Plan a node of one output."""
        return Draft(op_type, inputs, attributes, domain=domain).outputs[0]

    def copy(self, node: ir.Node, inputs: Sequence[Wire | None], **changed: Attribute) -> Draft:
        """Plan a node that is as another one, but for its inputs and some attributes."""
        attributes: Mapping[str, Attribute] = {**node.attributes, **changed}
        return Draft(node.op_type, inputs, attributes, len(node.outputs), node.domain)

    def reshape(self, wire: Wire, target: Sequence[int]) -> Wire:
        """Plan a Reshape, where 0 keeps a size and -1 is what is left."""
        return self.node("Reshape", [wire, literal(np.array(target, np.int64))])

    def transpose(self, wire: Wire, order: Sequence[int]) -> Wire:
        """Plan a Transpose."""
        return self.node("Transpose", [wire], perm=list(order))

    def with_axes(self, op_type: str, wire: Wire, axes: Iterable[int], since: int = 13) -> Wire:
        """Plan an operator whose axes are an attribute before an opset, an input since then."""
        numbers = list(axes)
        if self.opset < since:
            return self.node(op_type, [wire], axes=numbers)
        return self.node(op_type, [wire, literal(np.array(numbers, np.int64))])

    def lead(self, lanes: Lanes) -> Lanes:
        """Convert to [K, N, C, ...]."""
        return self.to(lanes, Layout.LEAD)

    def apart(self, lanes: Lanes) -> Lanes:
        """Convert to a layout with an axis of the lanes, the nearest one."""
        nearest = {Layout.CHANNELS: Layout.MIDDLE, Layout.COLUMNS: Layout.LEAD}
        return self.to(lanes, nearest.get(lanes.layout, lanes.layout))

    def channels(self, lanes: Lanes) -> Lanes:
        """Convert to [N, K * C, ...]."""
        return self.to(lanes, Layout.CHANNELS)

    def to(self, lanes: Lanes, layout: Layout) -> Lanes:
        """Convert to a layout.

        Raises:
            Refused: There is no such layout of this value, or too few sizes are known.
        """
        if lanes.layout is layout:
            return lanes
        if 0 in lanes.shape:
            raise Refused("an empty value")
        if (lanes, layout) not in self._converted:
            self._converted[lanes, layout] = self._convert(lanes, layout)
        return self._converted[lanes, layout]

    def _convert(self, lanes: Lanes, layout: Layout) -> Lanes:
        flat = (Layout.CHANNELS, Layout.COLUMNS)
        if lanes.rank < (2 if layout in flat or lanes.layout in flat else 1):
            raise Refused(f"a value of rank {lanes.rank} has no layout {layout.value}")
        if Layout.COLUMNS in (layout, lanes.layout):
            return self._of_columns(lanes, layout)
        second, rest = lanes.shape[1] if lanes.rank > 1 else None, lanes.shape[2:]
        if lanes.layout is Layout.CHANNELS:
            target = (0, self.count, *sizes((second, *rest)))
            middle = Lanes(self.reshape(lanes.wire, target), Layout.MIDDLE, lanes.shape)
            return self.to(middle, layout)
        if layout is Layout.CHANNELS:
            merged = second * self.count if isinstance(second, int) else None
            middle = self.to(lanes, Layout.MIDDLE)
            target = (0, *sizes((merged, *rest)))
            return Lanes(self.reshape(middle.wire, target), layout, lanes.shape)
        order = [1, 0, *range(2, lanes.rank + 1)]
        return Lanes(self.transpose(lanes.wire, order), layout, lanes.shape)

    def _of_columns(self, lanes: Lanes, layout: Layout) -> Lanes:
        """Convert to columns, or from them."""
        width = lanes.shape[1]
        if lanes.rank != 2 or not isinstance(width, int):
            raise Refused("no matrix whose number of columns is known")
        if Layout.MIDDLE in (layout, lanes.layout):
            return self.to(self.to(lanes, Layout.CHANNELS), layout)
        is_lead = Layout.LEAD in (layout, lanes.layout)
        order = [0, 2, 1] if is_lead else [1, 0]
        if layout is Layout.COLUMNS:
            wire = self.reshape(self.transpose(lanes.wire, order), (1, width * self.count, -1, 1))
        else:
            apart = (self.count, width) if is_lead else (width * self.count,)
            wire = self.transpose(self.reshape(lanes.wire, (*apart, -1)), order)
        return Lanes(wire, layout, lanes.shape)


def sizes(dims: Sequence[Dim]) -> tuple[int, ...]:
    """Write sizes as Reshape wants them: at most one may be unknown.

    Raises:
        Refused: More are.
    """
    if sum(not isinstance(dim, int) for dim in dims) > 1:
        raise Refused(f"sizes {list(dims)} are not known")
    return tuple(dim if isinstance(dim, int) else -1 for dim in dims)
