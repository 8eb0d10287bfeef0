"""Reshapes of turned data: axes that are split, joined, or have size 1, wherever they stand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from graphopt.rewrite.dims import Dims
from passes.cleanup.axes import int64s
from passes.cleanup.sites import Site, int_setting, ints_setting, optional_input
from passes.cleanup.turns import Order, Turn, Turning, is_kept

_UNKNOWN = (1 << 61) - 1
"""Stands for the one size that is not known: a prime, so that no other sizes multiply to it."""

_Sizes = tuple[int, ...]
_Block = tuple[list[int], list[int]]
"""Axes before and axes behind a reshape that hold the same elements."""


def reshape(turning: Turning) -> Turn | None:
    """Turn a Reshape, Flatten, Squeeze or Unsqueeze to a Reshape, from either of its sides."""
    node = turning.node
    sizes = _sizes(node, turning.site) if turning.site.opset >= 5 else None
    blocks = None if sizes is None else _blocks(*sizes)
    if sizes is None or blocks is None:
        return None
    front, back = turning.order(node.inputs[0]), turning.order(node.outputs[0])
    if front is not None:
        found = _carried(front, [block[0] for block in blocks], [block[1] for block in blocks])
        known, dims = back, sizes[1]
    elif back is not None:
        found = _carried(back, [block[1] for block in blocks], [block[0] for block in blocks])
        known, dims = front, sizes[0]
    else:
        return None
    if found is None:
        return None
    other = known if known is not None and _moves(known, dims) == found else _with_ones(found, dims)
    if front is not None:
        back = other
    else:
        front = other
    target = [sizes[1][axis] for axis in back] if back is not None else list(sizes[1])
    written = [-1 if size % _UNKNOWN == 0 else size for size in target]
    return Turn(_given(front), _given(back), {1: int64s(written)}, op_type="Reshape")


def _given(order: Order | None) -> dict[int, Order]:
    return {} if order is None or is_kept(order) else {0: order}


def _sizes(node: ir.Node, site: Site) -> tuple[_Sizes, _Sizes] | None:
    """Return the sizes before and behind; one size of each may hold the unknown one."""
    before = site.shapes.shape(node.inputs[0])
    behind = _target(node, before, site)
    if before is None or behind is None or 0 in before or 0 in behind:
        return None
    front = tuple(dim if isinstance(dim, int) else _UNKNOWN for dim in before)
    open_sizes = [axis for axis, dim in enumerate(behind) if not isinstance(dim, int) or dim < 0]
    if front.count(_UNKNOWN) > 1 or len(open_sizes) > 1:
        return None
    rest = math.prod(dim for dim in behind if isinstance(dim, int) and dim > 0)
    whole = math.prod(front)
    if whole % rest or (not open_sizes and whole != rest):
        return None
    missing = whole // rest
    return front, tuple(dim if isinstance(dim, int) and dim > 0 else missing for dim in behind)


def _target(node: ir.Node, before: Dims | None, site: Site) -> Dims | None:
    if node.op_type != "Reshape":
        return site.shapes.shape(node.outputs[0])
    target = ints_setting(node, "shape", 1) if optional_input(node, 1) is not None else None
    if target is None or int_setting(node, "allowzero", 0) != 0 or before is None:
        return None
    if any(size == 0 and axis >= len(before) for axis, size in enumerate(target)):
        return None
    return tuple(before[axis] if size == 0 else size for axis, size in enumerate(target))


def _blocks(before: _Sizes, behind: _Sizes) -> list[_Block] | None:
    """Pair axes so that a block holds as few as it can; axes of size 1 are in none."""
    first = [axis for axis, size in enumerate(before) if size != 1]
    second = [axis for axis, size in enumerate(behind) if size != 1]
    blocks = list[_Block]()
    while first and second:
        block: _Block = ([first.pop(0)], [second.pop(0)])
        left, right = before[block[0][0]], behind[block[1][0]]
        while left != right:
            if left < right and first:
                block[0].append(first.pop(0))
                left *= before[block[0][-1]]
            elif right < left and second:
                block[1].append(second.pop(0))
                right *= behind[block[1][-1]]
            else:
                return None
        blocks.append(block)
    return None if first or second else blocks


def _carried(
    order: Order, own: Sequence[list[int]], other: Sequence[list[int]]
) -> list[int] | None:
    """Carry an order over to the other side; None where it takes a block apart.

    Args:
        order: Of the one side.
        own: The axes of each block on that side.
        other: The axes of each block on the other side.

    Returns:
        The axes of the other side in their new order, without those of size 1.
    """
    in_blocks = {axis for block in own for axis in block}
    left = [axis for axis in order if axis in in_blocks]
    found = list[int]()
    starts = {block[0]: index for index, block in enumerate(own)}
    while left:
        index = starts.get(left[0])
        if index is None or left[: len(own[index])] != own[index]:
            return None
        del left[: len(own[index])]
        found.extend(other[index])
    return found


def _moves(order: Order, sizes: _Sizes) -> list[int]:
    return [axis for axis in order if sizes[axis] != 1]


def _with_ones(found: list[int], sizes: _Sizes) -> Order | None:
    """Put axes of size 1 before the axis that they stood before; None where nothing moves."""
    if found == sorted(found):
        return None
    order = list[int]()
    for axis in found:
        front = axis
        while front > 0 and sizes[front - 1] == 1:
            front -= 1
        order.extend(range(front, axis + 1))
        if axis == max(found):
            order.extend(range(axis + 1, len(sizes)))
    return tuple(order)
