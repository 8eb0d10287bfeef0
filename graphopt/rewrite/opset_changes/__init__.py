"""What changed in ONNX's operators from one version to another, as edits of single nodes.

Source: ONNX's operator changelog. `RULES` says where to find the change of an operator: a rule of
`attributes` and `inputs` that is told what changed, or a function of `broadcasting`, `inputs`,
`normalization` or `sizes`.

An operator that is not in `RULES` means the same in all versions that take its attributes and
inputs: it came to take more types, more inputs, or attributes whose default is what it did before.
What lost an attribute or an input which a node has (the `output_sequence` of the first LSTM, the
three inputs of the first Tile) is for `raise_opset` to refuse. One difference is left to the
runtime: a negative index of OneHot selects nothing in the text of opset 9, and from the end in 11.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.rewrite.opset_changes import broadcasting, inputs, normalization, sizes
from graphopt.rewrite.opset_changes.attributes import Defaults, Dropped, Gone, Renamed, Respelled
from graphopt.rewrite.opset_changes.inputs import ToInputs
from graphopt.rewrite.opset_changes.site import Edit, Facts, Impossible, Rule, Site, in_turn

__all__ = ["RULES", "Edit", "Facts", "Impossible", "Rule", "Site", "change"]

_IN_PLACE = Dropped(6, ("consumed_inputs",))
"""Of many operators: which inputs the first runtimes could overwrite."""

RULES: Mapping[str, Rule] = {
    "Add": broadcasting.two_operands,
    "And": broadcasting.two_operands,
    "BatchNormalization": normalization.batch_normalization,
    "Clip": inputs.clip,
    "Concat": Defaults(4, {"axis": 1}),
    "DFT": inputs.dft,
    "Div": broadcasting.two_operands,
    "Dropout": inputs.dropout,
    "Equal": broadcasting.two_operands,
    "Gemm": Dropped(7, ("broadcast",)),
    "Greater": broadcasting.two_operands,
    "GridSample": Respelled(20, "mode", {"bilinear": "linear", "bicubic": "cubic"}),
    "GroupNormalization": normalization.group_normalization,
    "Hardmax": normalization.softmax,
    "Less": broadcasting.two_operands,
    "LogSoftmax": normalization.softmax,
    "Mul": broadcasting.two_operands,
    "Or": broadcasting.two_operands,
    "PRelu": broadcasting.p_relu,
    "Pad": inputs.pad,
    "Pow": broadcasting.two_operands,
    "ReduceL1": ToInputs(18, {"axes": 1}),
    "ReduceL2": ToInputs(18, {"axes": 1}),
    "ReduceLogSum": ToInputs(18, {"axes": 1}),
    "ReduceLogSumExp": ToInputs(18, {"axes": 1}),
    "ReduceMax": ToInputs(18, {"axes": 1}),
    "ReduceMean": ToInputs(18, {"axes": 1}),
    "ReduceMin": ToInputs(18, {"axes": 1}),
    "ReduceProd": ToInputs(18, {"axes": 1}),
    "ReduceSum": ToInputs(13, {"axes": 1}),
    "ReduceSumSquare": ToInputs(18, {"axes": 1}),
    "Reshape": ToInputs(5, {"shape": 1}),
    "Resize": sizes.resize,
    "RoiAlign": Defaults(16, {"coordinate_transformation_mode": "output_half_pixel"}),
    "Scan": Gone(9, "it has a batch axis, which is gone"),
    "Scatter": Renamed(11, "ScatterElements"),
    "Selu": Defaults(6, {"alpha": 1.6732, "gamma": 1.0507}),
    "Slice": ToInputs(10, {"starts": 1, "ends": 2, "axes": 3}, required=("starts", "ends")),
    "Softmax": normalization.softmax,
    "Split": inputs.split,
    "Squeeze": ToInputs(13, {"axes": 1}),
    "Sub": broadcasting.two_operands,
    "TopK": ToInputs(10, {"k": 1}, required=("k",)),
    "Unsqueeze": ToInputs(13, {"axes": 1}),
    "Upsample": sizes.upsample,
    "Xor": broadcasting.two_operands,
}
"""What changed, by operator."""


def change(site: Site) -> Edit | None:
    """Return the edit that writes a node in another version; None where it may stay as it is.

    Raises:
        Impossible: It has no equal there.
    """
    rule = RULES.get(site.node.op_type)
    return in_turn(_IN_PLACE(site), None if rule is None else rule(site))
