"""What changed in ONNX's operators from one version to another, as edits of single nodes.

Source: ONNX's operator changelog. An operator that is missing here only grew: it took more types,
or attributes and inputs whose default is what it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array, add_constant, array
from graphopt.rewrite.names import Names
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import replace
from graphopt.rewrite.value_types import ValueTypes

Edit = Callable[[], None]
"""Changes one node, in place."""


class Impossible(Exception):
    """A node has no equal in another version, for the reason in the message."""


class Facts:
    """What edits look up in a model, found out when it is first asked for."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @cached_property
    def names(self) -> Names:
        """The names that are taken."""
        return Names(self._model)

    @cached_property
    def shapes(self) -> Shapes:
        """Shapes."""
        return Shapes(self._model)

    @cached_property
    def types(self) -> ValueTypes:
        """Types."""
        return ValueTypes(self._model)


@dataclass(frozen=True)
class Site:
    """A node that is written in one version and has to be in another.

    Args:
        node: The node.
        source: The version it is written in.
        target: The version to write it in.
        facts: What is known of the model.
        in_function: Whether it belongs to a function.
    """

    node: ir.Node
    source: int
    target: int
    facts: Facts
    in_function: bool

    def crosses(self, version: int) -> bool:
        """Whether a change that came with a version lies between source and target."""
        return self.source < version <= self.target

    def has(self, *names: str) -> bool:
        """Whether the node has one of these attributes."""
        return any(name in self.node.attributes for name in names)

    def value(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute, or a default where there is none."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.is_ref():
            raise Impossible(f"its attribute {name!r} comes from the caller of the function")
        return attribute.value

    def rank(self, index: int) -> int | None:
        """Return the rank of an input, where it is known."""
        return self.facts.shapes.rank(self.node.inputs[index])

    def dtype(self, index: int) -> ir.DataType:
        """Return the type of an input, which must be known."""
        dtype = self.facts.types(self.node.inputs[index])
        if dtype is None:
            raise Impossible("the type of its input is not known")
        return dtype

    def constant(self, what: str, content: Array) -> ir.Value:
        """Add a constant that the node can read."""
        base = self.node.outputs[0].name or self.node.name or self.node.op_type
        name = self.facts.names.fresh(f"{base}_{what}")
        tensor = ir.Tensor(content, name=name)
        return add_constant(self.node, name, tensor, in_function=self.in_function)

    def integers(self, what: str, content: Sequence[int]) -> ir.Value:
        """Add a constant list of int64."""
        return self.constant(what, np.asarray(content, np.int64).reshape(-1))

    def add(
        self, op_type: str, inputs: Sequence[ir.Value | None], what: str, **attributes: Any
    ) -> ir.Value:
        """Insert a node in front of this one; return its output."""
        base = self.node.outputs[0].name or self.node.name or self.node.op_type
        name = self.facts.names.fresh(f"{base}_{what}")
        attrs = [ir.convenience.convert_attribute(key, attributes[key]) for key in attributes]
        output = ir.Value(name=name)
        node = ir.Node("", op_type, inputs, attrs, outputs=[output], name=name)
        self._graph.insert_before(self.node, node)
        return output

    def read(self, index: int, value: ir.Value | None) -> None:
        """Let the node read a value as its input `index`."""
        if len(self.node.inputs) <= index:
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def give_way(self, last: ir.Value) -> None:
        """Let the readers of the node's output read `last`, which takes its name; drop the node."""
        old = self.node.outputs[0]
        name, kind, shape = old.name, old.type, old.shape
        replace(old, last)
        last.name, last.type, last.shape = name, kind, shape
        last.metadata_props.update(old.metadata_props)
        last.meta.update(old.meta)
        self._graph.remove(self.node, safe=True)

    @property
    def _graph(self) -> ir.Graph:
        if self.node.graph is None:
            raise ValueError(f"{self.node.name!r} is in no graph")
        return self.node.graph


def change(site: Site) -> Edit | None:
    """Return the edit that writes a node in another version; None where it may stay as it is.

    Raises:
        Impossible: It has no equal there.
    """
    steps = [_drop_consumed(site)] if site.crosses(6) else []
    rule = _RULES.get(site.node.op_type)
    if rule is not None:
        steps.append(rule(site))
    edits = [step for step in steps if step is not None]
    if not edits:
        return None

    def apply() -> None:
        for edit in edits:
            edit()

    return apply


def _drop_consumed(site: Site) -> Edit | None:
    return _drop(site, "consumed_inputs")


def _drop(site: Site, *names: str) -> Edit | None:
    """Forget attributes that say nothing any more."""
    return (lambda: _drop_all(site, *names)) if site.has(*names) else None


def _drop_all(site: Site, *names: str) -> None:
    for name in names:
        site.node.attributes.pop(name, None)


def _both(*edits: Edit | None) -> Edit | None:
    found = [edit for edit in edits if edit is not None]
    if not found:
        return None

    def apply() -> None:
        for edit in found:
            edit()

    return apply


def _set(site: Site, **attributes: Any) -> Edit:
    def apply() -> None:
        for name, value in attributes.items():
            site.node.attributes[name] = ir.convenience.convert_attribute(name, value)

    return apply


def _list_to_input(name: str, index: int, since: int) -> Callable[[Site], Edit | None]:
    """Integers in an attribute became an input."""

    def rule(site: Site) -> Edit | None:
        if not site.crosses(since) or not site.has(name):
            return None
        content = site.value(name)

        def apply() -> None:
            del site.node.attributes[name]
            site.read(index, site.integers(name, content))

        return apply

    return rule


def _split(site: Site) -> Edit | None:
    sizes = _list_to_input("split", 1, 13)(site)
    even = not site.has("split", "num_outputs") and (
        len(site.node.inputs) < 2 or site.node.inputs[1] is None
    )
    if site.crosses(18) and even:
        return _both(sizes, _set(site, num_outputs=len(site.node.outputs)))
    return sizes


def _softmax(site: Site) -> Edit | None:
    """Along one axis since opset 13; before, over all axes from one on."""
    if not site.crosses(13):
        return None
    axis = site.value("axis", 1)
    rank = site.rank(0)
    if axis == -1 or (rank is not None and axis % max(rank, 1) == max(rank, 1) - 1):
        return _set(site, axis=-1)

    def apply() -> None:
        node = site.node
        source = node.inputs[0]
        shape = site.add("Shape", [source], "shape")
        flat = site.add("Flatten", [source], "flat", axis=axis)
        last = site.add(node.op_type, [flat], "rows", axis=-1)
        site.give_way(site.add("Reshape", [last, shape], "restored"))

    return apply


def _slice(site: Site) -> Edit | None:
    if not site.crosses(10):
        return None
    starts, ends, axes = (site.value(name) for name in ("starts", "ends", "axes"))
    if starts is None or ends is None:
        raise Impossible("it says no starts and ends")

    def apply() -> None:
        _drop_all(site, "starts", "ends", "axes")
        site.read(1, site.integers("starts", starts))
        site.read(2, site.integers("ends", ends))
        if axes is not None:
            site.read(3, site.integers("axes", axes))

    return apply


def _top_k(site: Site) -> Edit | None:
    if not site.crosses(10):
        return None
    k = site.value("k")
    if k is None:
        raise Impossible("it says no k")

    def apply() -> None:
        del site.node.attributes["k"]
        site.read(1, site.integers("k", [k]))

    return apply


def _clip(site: Site) -> Edit | None:
    if not site.crosses(11) or not site.has("min", "max"):
        return None
    low, high = site.value("min"), site.value("max")
    bounds = {
        index: _scalar(bound, site.dtype(0))
        for index, bound in ((1, low), (2, high))
        if bound is not None
    }

    def apply() -> None:
        _drop_all(site, "min", "max")
        for index, bound in bounds.items():
            site.read(index, site.constant("low" if index == 1 else "high", bound))

    return apply


def _pad(site: Site) -> Edit | None:
    if not site.crosses(11):
        return None
    pads, filling = site.value("pads"), site.value("value", 0.0)
    if pads is None:
        raise Impossible("it says no pads")
    filled = _scalar(filling, site.dtype(0)) if filling else None

    def apply() -> None:
        _drop_all(site, "value", "pads")
        site.read(1, site.integers("pads", pads))
        if filled is not None:
            site.read(2, site.constant("value", filled))

    return apply


def _scalar(number: float, dtype: ir.DataType) -> Array:
    """A bound beyond the type becomes its last number: it bounds as much."""
    if not dtype.is_floating_point():
        raise Impossible(f"its input is {dtype.name}")
    limit = float(dtype.max) if np.isfinite(number) else np.inf
    return np.asarray(min(max(number, -limit), limit), dtype.numpy())


def _dropout(site: Site) -> Edit | None:
    if site.crosses(7) and not site.value("is_test", 0):
        raise Impossible("it is in training mode")
    if site.crosses(10) and len(site.node.outputs) > 1:
        mask = site.node.outputs[1]
        if mask.uses() or mask.is_graph_output():
            raise Impossible("its mask is read, which became boolean")
    dropped = _drop(site, "is_test") if site.crosses(7) else None
    if not site.crosses(12) or not site.has("ratio"):
        return dropped
    ratio = np.asarray(site.value("ratio"), np.float32)

    def apply() -> None:
        del site.node.attributes["ratio"]
        site.read(1, site.constant("ratio", ratio))

    return _both(dropped, apply)


def _batch_normalization(site: Site) -> Edit | None:
    if site.crosses(7) and not site.value("is_test", 0):
        raise Impossible("it is in training mode")
    if site.crosses(14) and len(site.node.outputs) > 1:
        raise Impossible("it is in training mode")
    if site.crosses(9) and site.value("spatial", 1) != 1:
        raise Impossible("it normalizes each place apart (spatial=0)")
    return _drop(site, "is_test", "spatial")


def _upsample(site: Site) -> Edit | None:
    if site.source < 7:
        raise Impossible("it scales in the way of the first versions")
    scales = site.value("scales") if site.source < 9 else None
    if site.source < 9 and scales is None:
        raise Impossible("it says no scales")

    def apply() -> None:
        if scales is not None:
            del site.node.attributes["scales"]
            site.read(1, site.constant("scales", np.asarray(scales, np.float32)))
        if site.target >= 10:
            site.node.op_type = "Resize"
        if site.target >= 11:
            _place_asymmetric(site, "floor")

    return apply if site.target >= 9 else None


def _resize(site: Site) -> Edit | None:
    if site.crosses(11):
        rounding = "floor"
        if site.value("mode", "nearest") == "nearest":
            rounding = _rounding(array(site.node.inputs[1]))
        return lambda: _place_asymmetric(site, rounding)
    mode = site.value("coordinate_transformation_mode", "half_pixel")
    if site.crosses(13) and mode == "tf_half_pixel_for_nn":
        raise Impossible(f"its coordinates are {mode}, which is gone")
    return None


def _rounding(scales: Array | None) -> str:
    """Opset 10 cuts the places off where it enlarges, and rounds up where it reduces."""
    if scales is None:
        raise Impossible("its scales are computed, and rounding depends on them")
    if (scales >= 1).all():
        return "floor"
    if (scales <= 1).all():
        return "ceil"
    raise Impossible("it enlarges one axis and reduces another")


def _place_asymmetric(site: Site, rounding: str) -> None:
    node = site.node
    scales = node.inputs[1]
    # Required, and not read, before opset 13.
    roi = site.constant("roi", np.zeros(0, np.float32)) if site.target < 13 else None
    site.read(2, scales)
    site.read(1, roi)
    _set(site, coordinate_transformation_mode="asymmetric", nearest_mode=rounding)()


def _scatter(site: Site) -> Edit | None:
    if not site.crosses(11):
        return None

    def apply() -> None:
        site.node.op_type = "ScatterElements"

    return apply


def _scan(site: Site) -> Edit | None:
    if site.crosses(9):
        raise Impossible("it has a batch axis, which is gone")
    return None


def _roi_align(site: Site) -> Edit | None:
    if not site.crosses(16):
        return None
    return _set(site, coordinate_transformation_mode="output_half_pixel")


def _grid_sample(site: Site) -> Edit | None:
    renamed = {"bilinear": "linear", "bicubic": "cubic"}.get(site.value("mode", ""))
    return _set(site, mode=renamed) if site.crosses(20) and renamed else None


def _dft(site: Site) -> Edit | None:
    if not site.crosses(20):
        return None
    axis = site.value("axis", 1)

    def apply() -> None:
        site.node.attributes.pop("axis", None)
        site.read(2, site.constant("axis", np.asarray(axis, np.int64)))

    return apply


def _group_normalization(site: Site) -> Edit | None:
    """Scale and shift are given per channel since opset 21; before, per group."""
    if not site.crosses(21):
        return None
    groups = site.value("num_groups")
    if not groups:
        raise Impossible("it says no number of groups")

    def apply() -> None:
        channels = site.add("Shape", [site.node.inputs[0]], "channels", start=1, end=2)
        size = site.add("Div", [channels, site.integers("groups", [groups])], "group_size")
        wide = site.add("Concat", [site.integers("one", [1]), size], "wide", axis=0)
        column, flat = site.integers("column", [-1, 1]), site.integers("flat", [-1])
        for index, what in ((1, "scale"), (2, "bias")):
            per_group = site.add("Reshape", [site.node.inputs[index], column], f"{what}_column")
            spread = site.add("Expand", [per_group, wide], f"{what}_spread")
            site.read(index, site.add("Reshape", [spread, flat], what))

    return apply


def _broadcasting(site: Site) -> Edit | None:
    """Until opset 7 the second operand was laid along an axis of the first."""
    if not site.crosses(7):
        return None
    dropped = _drop(site, "broadcast", "axis")
    if not site.value("broadcast", 0) or not site.has("axis"):
        return dropped
    axis, ranks = site.value("axis"), (site.rank(0), site.rank(1))
    if ranks[0] is None or ranks[1] is None:
        raise Impossible("the ranks of its inputs are not known")
    missing = ranks[0] - ranks[1] - axis % ranks[0]
    if missing <= 0:
        return dropped
    axes = [ranks[1] + n for n in range(missing)]
    return _both(dropped, lambda: _lay(site, axes))


def _lay(site: Site, axes: Sequence[int]) -> None:
    """Give the second operand axes of size 1."""
    second = site.node.inputs[1]
    if site.target >= 13:
        last = site.add("Unsqueeze", [second, site.integers("axes", axes)], "laid")
    else:
        last = site.add("Unsqueeze", [second], "laid", axes=list(axes))
    site.read(1, last)


def _gemm(site: Site) -> Edit | None:
    return _drop(site, "broadcast") if site.crosses(7) else None


def _p_relu(site: Site) -> Edit | None:
    """Until opset 7 the slope was one number, or one per channel."""
    if not site.crosses(7):
        return None
    shape, rank = site.facts.shapes.static_shape(site.node.inputs[1]), site.rank(0)
    if shape is None or rank is None:
        raise Impossible("the shapes of its inputs are not known")
    if int(np.prod(shape)) == 1 or rank <= 2:
        return None
    return lambda: _lay(site, range(1, rank - 1))


def _concat(site: Site) -> Edit | None:
    return _set(site, axis=1) if site.crosses(4) and not site.has("axis") else None


_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

_RULES: Mapping[str, Callable[[Site], Edit | None]] = {
    **dict.fromkeys(_BROADCASTING, _broadcasting),
    **dict.fromkeys((f"Reduce{kind}" for kind in _REDUCTIONS), _list_to_input("axes", 1, 18)),
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), _list_to_input("axes", 1, 13)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "DFT": _dft,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "GridSample": _grid_sample,
    "GroupNormalization": _group_normalization,
    "PRelu": _p_relu,
    "Pad": _pad,
    "Reshape": _list_to_input("shape", 1, 5),
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "Scan": _scan,
    "Scatter": _scatter,
    "Slice": _slice,
    "Split": _split,
    "TopK": _top_k,
    "Upsample": _upsample,
}
