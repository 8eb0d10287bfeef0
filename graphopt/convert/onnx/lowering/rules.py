"""How a node of a newer opset is said in an older one: the rules of raising, turned round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.convert.onnx.lowering import parts, sizes, splitting
from graphopt.convert.onnx.lowering.reading import (
    crosses,
    input_of,
    integers_of,
)
from graphopt.rewrite.constants import scalar
from graphopt.rewrite.opset_changes import Edit, Impossible, Rule, Site
from graphopt.rewrite.opset_changes.attributes import forget, given


@dataclass(frozen=True)
class _FromInputs:
    """Inputs that were attributes: lists of integers, or one integer.

    Args:
        since: The version that they became inputs with.
        names: The attributes, by input.
        single: Those that are one integer.
    """

    since: int
    names: Mapping[int, str]
    single: tuple[str, ...] = ()

    def __call__(self, site: Site) -> Edit | None:
        if not crosses(site, self.since):
            return None
        found = {name: integers_of(site, index, name) for index, name in self.names.items()}

        def apply() -> None:
            for index in sorted(self.names, reverse=True):
                if index < len(site.node.inputs):
                    site.node.replace_input_with(index, None)
            _trim(site.node)
            for name, content in found.items():
                if content is not None:
                    value = content[0] if name in self.single else list(content)
                    given(site, **{name: value})()

        return apply


def _trim(node: ir.Node) -> None:
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    node.resize_inputs(count)


def _reduce(since: int) -> Rule:
    moved = _FromInputs(since, {1: "axes"})

    def rule(site: Site) -> Edit | None:
        if not crosses(site, since):
            return None
        axes = integers_of(site, 1, "axes")
        if not axes and site.value("noop_with_empty_axes", 0):
            raise Impossible("it does nothing without axes, where it reduced all of them")
        edit = moved(site)

        def apply() -> None:
            forget(site, "noop_with_empty_axes")
            if edit is not None:
                edit()
            if axes == ():
                forget(site, "axes")

        return apply

    return rule


def _slice(site: Site) -> Edit | None:
    if not crosses(site, 10):
        return None
    steps = integers_of(site, 4, "steps")
    if steps is not None and set(steps) - {1}:
        raise Impossible("it takes steps other than 1")
    moved = _FromInputs(10, {1: "starts", 2: "ends", 3: "axes"})

    def apply() -> None:
        if len(site.node.inputs) > 4:
            site.node.resize_inputs(4)
        edit = moved(site)
        assert edit is not None
        edit()

    return apply


def _clip(site: Site) -> Edit | None:
    if not crosses(site, 11):
        return None
    bounds: dict[str, float] = {}
    for index, name in ((1, "min"), (2, "max")):
        value = input_of(site, index)
        if value is not None:
            bound = scalar(value)
            if bound is None:
                raise Impossible(f"its {name} is computed, and had to be an attribute")
            bounds[name] = float(bound)

    def apply() -> None:
        site.node.resize_inputs(1)
        if bounds:
            given(site, **bounds)()

    return apply


def _dropout(site: Site) -> Edit | None:
    if not crosses(site, 12):
        return None
    training = input_of(site, 2)
    if training is not None and scalar(training) is not False:
        raise Impossible("it may be in training mode")
    ratio = input_of(site, 1)
    number = 0.5 if ratio is None else scalar(ratio)
    if number is None:
        raise Impossible("its ratio is computed, and had to be an attribute")
    if site.target < 7:
        raise Impossible("it said whether it trains by an attribute")

    def apply() -> None:
        site.node.resize_inputs(1)
        forget(site, "seed")
        given(site, ratio=float(number))()

    return apply


def _softmax(site: Site) -> Edit | None:
    """Until opset 13 all axes from one on counted as one: the same where it is the last."""
    if not crosses(site, 13):
        return None
    rank, axis = site.rank(0), site.value("axis", -1)
    if axis == -1 and site.target >= 11:
        return given(site, axis=-1)
    if rank is None:
        raise Impossible("the rank of its input is not known, and it took all axes from one on")
    if axis % max(rank, 1) != rank - 1:
        raise Impossible(f"it is along axis {axis}, and took all axes from one on")
    return given(site, axis=rank - 1)


def _reshape(site: Site) -> Edit | None:
    """Until opset 14 a 0 in the shape stood for the size of the input there."""
    if not crosses(site, 14):
        return None
    if site.value("allowzero", 0) and not _zeros_stay(site):
        raise Impossible("a 0 in its shape came to mean no elements, and it may have one")
    moved = _FromInputs(5, {1: "shape"})(site)

    def apply() -> None:
        forget(site, "allowzero")
        if moved is not None:
            moved()

    return apply


def _zeros_stay(site: Site) -> bool:
    """Whether a size can be 0 only where the input's size is, which a 0 stood for."""
    sizes = site.facts.shapes.elements(input_of(site, 1))
    before = site.facts.shapes.shape(input_of(site, 0)) or ()
    return sizes is not None and all(
        size != 0
        if isinstance(size, int)
        else size is not None and before[axis : axis + 1] == (size,)
        for axis, size in enumerate(sizes)
    )


def _scatter(site: Site) -> Edit | None:
    if not crosses(site, 11):
        return None
    if site.value("reduction", "none") != "none":
        raise Impossible("it reduces")

    def apply() -> None:
        forget(site, "reduction")
        site.node.op_type = "Scatter"

    return apply


def _broadcast(site: Site) -> Edit | None:
    if crosses(site, 7) and not site.facts.shapes.same_shape(*site.node.inputs[:2]):
        raise Impossible("its operands may differ in shape, and it broadcast in another way")
    return None


def _broadcast_all(site: Site) -> Edit | None:
    """Until opset 8 all operands had one shape."""
    first, *others = site.node.inputs
    if crosses(site, 8) and not all(site.facts.shapes.same_shape(first, o) for o in others):
        raise Impossible("its operands may differ in shape, and it did not broadcast")
    return None


def _constant(site: Site) -> Edit | None:
    """Until opset 12 only tensors."""
    if not crosses(site, 12):
        return None
    makers: Mapping[str, Callable[[object], np.ndarray]] = {
        "value_float": lambda value: np.asarray(value, np.float32),
        "value_floats": lambda value: np.asarray(value, np.float32),
        "value_int": lambda value: np.asarray(value, np.int64),
        "value_ints": lambda value: np.asarray(value, np.int64),
        "value_string": lambda value: np.asarray(value, object),
        "value_strings": lambda value: np.asarray(value, object),
    }
    name = next((name for name in makers if site.has(name)), None)
    if name is None:
        return None
    content = makers[name](site.value(name))

    def apply() -> None:
        forget(site, name)
        tensor = ir.StringTensor(
            [text.encode() for text in content.reshape(-1)], shape=ir.Shape(content.shape)
        ) if content.dtype == object else ir.Tensor(content)  # fmt: skip
        site.node.attributes["value"] = ir.AttrTensor("value", tensor)

    return apply


def _shape(site: Site) -> Edit | None:
    """Until opset 15 all of the dimensions: a Slice takes some."""
    if not crosses(site, 15) or not site.has("start", "end"):
        return None
    start, end = site.value("start", 0), site.value("end", np.iinfo(np.int64).max)
    if (start, end) == (0, np.iinfo(np.int64).max):
        return lambda: forget(site, "start", "end")

    def apply() -> None:
        whole = site.add("Shape", site.node.inputs, "shape")
        forget(site, "start", "end")
        site.node.op_type = "Slice"
        site.read(0, whole)
        if site.target < 10:
            given(site, starts=[start], ends=[end], axes=[0])()
            return
        site.read(1, site.integers("starts", [start]))
        site.read(2, site.integers("ends", [end]))

    return apply


def _quantizer(site: Site) -> Edit | None:
    """Until opset 13 one scale for all: the axis says nothing then."""
    scale = site.facts.shapes.static_shape(input_of(site, 1))
    if crosses(site, 13):
        if scale is None or scale not in {(), (1,)}:
            raise Impossible("it has one scale per channel")
        return lambda: forget(site, "axis")
    return None


def _refused(version: int, why: str) -> Rule:
    def rule(site: Site) -> Edit | None:
        if crosses(site, version):
            raise Impossible(why)
        return None

    return rule


def _selu(site: Site) -> Edit | None:
    if not crosses(site, 6):
        return None
    return given(
        site,
        alpha=site.value("alpha", 1.67326319217681884765625),
        gamma=site.value("gamma", 1.05070102214813232421875),
    )


_AXES = _FromInputs(13, {1: "axes"})

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "PRelu", "Pow", "Sub",
         "Xor", "Gemm"),
        _broadcast,
    ),
    **dict.fromkeys(("Max", "Mean", "Min", "Sum"), _broadcast_all),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
         "ReduceMin", "ReduceProd", "ReduceSumSquare"),
        _reduce(18),
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantizer),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), sizes.pool),
    "BatchNormalization": _refused(7, "it was in training mode unless it said otherwise"),
    "Clip": _clip,
    "Constant": _constant,
    "DFT": _FromInputs(20, {2: "axis"}, single=("axis",)),
    "Dropout": _dropout,
    "GridSample": sizes.grid_sample,
    "GroupNormalization": _refused(21, "its scales were per group"),
    "LayerNormalization": parts.layer_normalization,
    "MeanVarianceNormalization": _refused(9, "it had other attributes, and was experimental"),
    "Pad": sizes.pad,
    "ReduceSum": _reduce(13),
    "Reshape": _reshape,
    "Resize": sizes.resize,
    "RoiAlign": sizes.roi_align,
    "Scan": _refused(9, "it had a batch axis"),
    "ScatterElements": _scatter,
    "Selu": _selu,
    "Shape": _shape,
    "Slice": _slice,
    "Split": splitting.split,
    "Squeeze": _AXES,
    "ThresholdedRelu": parts.thresholded_relu,
    "TopK": _FromInputs(10, {1: "k"}, single=("k",)),
    "Unsqueeze": _AXES,
}  # fmt: skip
"""By operator; others stay as they are, where they fit."""
