"""Operators that move, cut or repeat data, where they leave it as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from graphopt.rewrite.constants import array, constant, is_op
from graphopt.rewrite.dims import Dim, Dims, equal_dims
from passes.cleanup.reshapes import reshaped_dims
from passes.cleanup.sites import Site, int_setting, ints_setting, is_given, optional_input

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
"""Operators that keep the elements in their order and change the shape only."""

_TO_THE_END = (1 << 31) - 1
"""What exporters write for an open end of a slice, or more."""


def _same_shape(node: ir.Node, site: Site) -> ir.Value | None:
    """Operators that can only change the shape, or only where the shape changes."""
    return node.inputs[0] if site.shapes.same_shape(node.inputs[0], node.outputs[0]) else None


def _reshape(node: ir.Node, site: Site) -> ir.Value | None:
    """Find the same shape behind any chain of reshapes, or in the target."""
    target = _target(node, site)
    source: ir.Value | None = node.inputs[0]
    found = None
    while source is not None:
        shape = site.shapes.shape(source)
        if site.shapes.same_shape(source, node.outputs[0]) or _reaches(shape, target):
            found = source
        producer = source.producer()
        if producer is None or not is_op(producer, *_RESHAPES):
            break
        if _undoes(node, producer):
            found = producer.inputs[0]
        source = producer.inputs[0]
        target = None if target is None or 0 in target else target
    return found


def _target(node: ir.Node, site: Site) -> Dims | None:
    if node.op_type != "Reshape" or int_setting(node, "allowzero", 0) != 0:
        return None
    if site.opset < 5:
        fixed = ints_setting(node, "shape", None)
        return None if fixed is None else tuple(fixed)
    return site.shapes.elements(optional_input(node, 1))


def _reaches(shape: Dims | None, target: Dims | None) -> bool:
    """Whether reshaping to a target keeps a shape, of which some sizes may be unknown."""
    if shape is None or target is None or len(shape) != len(target):
        return False
    named = tuple(f"?{axis}" if dim is None else dim for axis, dim in enumerate(shape))
    return equal_dims(reshaped_dims(named, target), named)


def _undoes(node: ir.Node, inner: ir.Node) -> bool:
    """Whether Squeeze and Unsqueeze cancel at equal axes, whatever the shape is."""
    if {node.op_type, inner.op_type} != {"Squeeze", "Unsqueeze"}:
        return False
    outer_axes, inner_axes = ints_setting(node, "axes", 1), ints_setting(inner, "axes", 1)
    if outer_axes is None or inner_axes is None or min((*outer_axes, *inner_axes), default=0) < 0:
        return False
    return sorted(outer_axes) == sorted(inner_axes)


def _transpose(node: ir.Node, site: Site) -> ir.Value | None:
    rank = site.shapes.rank(node.inputs[0])
    order = ints_setting(node, "perm", None)
    if order is None:
        stays = "perm" not in node.attributes and rank is not None and rank <= 1
    else:
        stays = list(order) == sorted(order)
    return node.inputs[0] if stays else None


def _pad(node: ir.Node, site: Site) -> ir.Value | None:
    pads = ints_setting(node, "pads", 1)
    if pads is None and site.opset < 2:
        pads = ints_setting(node, "paddings", None)
    return node.inputs[0] if pads is not None and not any(pads) else None


def _slice(node: ir.Node, site: Site) -> ir.Value | None:
    starts, ends = _bounds(node, "starts", 1, site), _bounds(node, "ends", 2, site)
    if starts is None or ends is None or len(starts) != len(ends):
        return None
    steps = ints_setting(node, "steps", 4) if is_given(node, "steps", 4) else [1] * len(starts)
    if steps is None or any(step != 1 for step in steps) or any(start != 0 for start in starts):
        return None
    axes = ints_setting(node, "axes", 3) if is_given(node, "axes", 3) else range(len(starts))
    if axes is None or len(axes) != len(starts):
        return None
    shape = site.shapes.shape(node.inputs[0])
    whole = all(_is_end(end, axis, shape) for end, axis in zip(ends, axes, strict=True))
    return node.inputs[0] if whole else None


def _bounds(node: ir.Node, attribute: str, index: int, site: Site) -> Sequence[Dim] | None:
    known = ints_setting(node, attribute, index)
    return known if known is not None else site.shapes.elements(optional_input(node, index))


def _is_end(end: Dim, axis: int, shape: Dims | None) -> bool:
    if isinstance(end, int) and end >= _TO_THE_END:
        return True
    if shape is None or end is None or not -len(shape) <= axis < len(shape):
        return False
    size = shape[axis]
    return end == size or (isinstance(end, int) and isinstance(size, int) and end >= size)


def _concat(node: ir.Node, site: Site) -> ir.Value | None:
    """Concat of one tensor, or of one and constants without elements."""
    filled = [value for value in node.inputs if not _is_empty(value)]
    if len(filled) != 1:
        return None
    if len(node.inputs) > 1 and not site.shapes.same_shape(filled[0], node.outputs[0]):
        return None
    return filled[0]


def _is_empty(value: ir.Value | None) -> bool:
    tensor = constant(value)
    return tensor is not None and tensor.size == 0


def _split(node: ir.Node, site: Site) -> ir.Value | None:
    del site
    return node.inputs[0] if len(node.outputs) == 1 else None


def _expand(node: ir.Node, site: Site) -> ir.Value | None:
    """Expand to a shape of ones and of sizes that the input has already."""
    target = site.shapes.elements(node.inputs[1])
    if target is not None and set(target) == {1} and len(target) == 1:
        rank = site.shapes.rank(node.inputs[0])
        return node.inputs[0] if rank is not None and rank >= 1 else None
    shape = site.shapes.shape(node.inputs[0])
    if target is None or shape is None or len(target) > len(shape):
        return _same_shape(node, site)
    aligned = shape[len(shape) - len(target) :]
    stays = all(
        goal == 1 or (goal is not None and goal == size)
        for goal, size in zip(target, aligned, strict=True)
    )
    return node.inputs[0] if stays else None


def _tile(node: ir.Node, site: Site) -> ir.Value | None:
    repeats = ints_setting(node, "repeats", 1)
    once = site.opset >= 6 and repeats is not None and all(count == 1 for count in repeats)
    return node.inputs[0] if once else None


def _reduce(node: ir.Node, site: Site) -> ir.Value | None:
    """Reductions over axes of size 1 that stay, or over no axes at all."""
    if is_given(node, "axes", 1):
        axes = ints_setting(node, "axes", 1)
        if axes is None:
            return None
    else:
        axes = ()
    if not axes and int_setting(node, "noop_with_empty_axes", 0) == 1:
        return node.inputs[0]
    if int_setting(node, "keepdims", 1) != 1:
        return None
    # Equal shapes say that only axes of size 1 were reduced.
    return _static_same_shape(node, site)


def _static_same_shape(node: ir.Node, site: Site) -> ir.Value | None:
    shape = site.shapes.shape(node.inputs[0])
    axes = ints_setting(node, "axes", 1)
    if shape is None or (axes is None and is_given(node, "axes", 1)):
        return None
    reduced = axes if axes else range(len(shape))
    if any(not -len(shape) <= axis < len(shape) for axis in reduced):
        return None
    return node.inputs[0] if all(shape[axis] == 1 for axis in reduced) else None


def _resize(node: ir.Node, site: Site) -> ir.Value | None:
    """Resize by factors of 1."""
    del site
    if node.op_type == "Upsample" and "scales" in node.attributes:
        factors = node.attributes["scales"]
        ones = not factors.is_ref() and all(factor == 1.0 for factor in factors.as_floats())
        return node.inputs[0] if ones else None
    index = 1 if len(node.inputs) == 2 else 2
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is not None and (mode.is_ref() or mode.as_string() == "tf_crop_and_resize"):
        return None
    contents = array(optional_input(node, index))
    ones = contents is not None and contents.size > 0 and bool((contents == 1).all())
    return node.inputs[0] if ones else None


def _pool(node: ir.Node, site: Site) -> ir.Value | None:
    """Pooling over windows of one element, at every place."""
    del site
    window = ints_setting(node, "kernel_shape", None)
    if window is None or any(size != 1 for size in window):
        return None
    for setting, neutral in (("strides", 1), ("dilations", 1), ("pads", 0)):
        if setting in node.attributes:
            known = ints_setting(node, setting, None)
            if known is None or any(number != neutral for number in known):
                return None
    return node.inputs[0] if int_setting(node, "storage_order", 0) == 0 else None


def _blocks(node: ir.Node, site: Site) -> ir.Value | None:
    del site
    return node.inputs[0] if int_setting(node, "blocksize", 0) == 1 else None


CHECKS: dict[str, Callable[[ir.Node, Site], ir.Value | None]] = {
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Slice": _slice,
    "Concat": _concat,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceMin": _reduce,
    "ReduceProd": _reduce,
    "ReduceSum": _reduce,
    "Resize": _resize,
    "Upsample": _resize,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _blocks,
}
