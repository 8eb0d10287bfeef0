"""What the integers, strings and control values that a model takes may be, read from their uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_INT_MAX = np.iinfo(np.int32).max

_TRANSPARENT = frozenset(
    {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Expand"}
    | {"Tile", "Slice", "Concat", "Where", "Pad", "Split", "Clip", "Abs"}
)
"""Operators that hand values on (of input 0, or of any input for Concat and Where)."""

_ANY_INPUT = frozenset({"Concat", "Where"})

_INDEXED = {
    ("Gather", 1): 0,
    ("GatherElements", 1): 0,
    ("ScatterElements", 1): 0,
    ("Scatter", 1): 0,
    ("GatherND", 1): 0,
    ("ScatterND", 1): 0,
    ("TensorScatter", 2): 0,
}
"""(operator, input that holds indices): the input that is indexed."""

_EMBEDDINGS = {0: 2, 1: 4, 7: 3}
"""EmbedLayerNormalization (com.microsoft): ids, segments and positions, and their tables."""

_CONTROL: dict[tuple[str, int], tuple[int, ...]] = {
    ("Reshape", 1): (-1, 1),
    ("Expand", 1): (1,),
    ("Tile", 1): (1,),
    ("ConstantOfShape", 0): (2,),
    ("Slice", 1): (0,),
    ("Slice", 2): (_INT_MAX,),
    ("Slice", 4): (1,),
    ("Pad", 1): (0,),
    ("TopK", 1): (1,),
    ("OneHot", 1): (8,),
    ("Loop", 0): (3,),
    ("Range", 0): (0,),
    ("Range", 1): (4,),
    ("Range", 2): (1,),
    ("CumSum", 1): (0,),
    ("Trilu", 1): (0,),
    ("DFT", 1): (4,),
    ("DFT", 2): (1,),
    ("STFT", 1): (2,),
    ("STFT", 3): (4,),
    ("HannWindow", 0): (8,),
    ("HammingWindow", 0): (8,),
    ("BlackmanWindow", 0): (8,),
    ("MelWeightMatrix", 0): (4,),
    ("MelWeightMatrix", 1): (16,),
    ("MelWeightMatrix", 2): (8192,),
    ("MelWeightMatrix", 3): (0,),
    ("MelWeightMatrix", 4): (4096,),
    ("MaxUnpool", 1): (0,),
    ("SequenceAt", 1): (0,),
    ("SequenceInsert", 2): (0,),
    ("SequenceErase", 1): (0,),
    ("Bernoulli", 0): (0, 1),
    ("Dropout", 2): (0,),
}
"""(operator, input): values that operators read as sizes, counts or switches. Of two, the first
stands at the front and the second fills the rest."""

_AXES = {("Slice", 3), ("Squeeze", 1), ("Unsqueeze", 1), ("CenterCropPad", 2), ("Pad", 3)}
_COMPARISONS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Mod"})


@dataclass
class Role:
    """What is known of the values of one input.

    Args:
        below: Values are in [0, below): they index a table of so many rows.
        values: Exact values; the last one repeats.
        axes: Values are axes: 0, 1, 2, ...
        constants: What the model compares it with: likely values.
        words: Strings that the model knows.
        lengths: Values count elements along a sequence.
    """

    below: int | None = None
    values: tuple[int, ...] | None = None
    axes: bool = False
    constants: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    lengths: bool = False


def role_of(model: ir.Model, value: ir.Value) -> Role:
    """Follow an input to its uses, through casts, reshapes and function calls."""
    role = Role()
    for node, index in _uses(model, value):
        _read(node, index, role)
    return role


def _uses(model: ir.Model, value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    pending = [value]
    seen: set[ir.Value] = set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for node, index in current.uses():
            function = model.functions.get(node.op_identifier())
            if function is not None:
                pending.extend(function.inputs[index : index + 1])
                continue
            yield node, index
            if node.op_type in _TRANSPARENT and (index == 0 or node.op_type in _ANY_INPUT):
                pending.extend(node.outputs)


def _read(node: ir.Node, index: int, role: Role) -> None:
    key = (node.op_type, index)
    indexed = _indexed(node, index)
    if indexed is not None:
        rows = _rows(node, indexed)
        # Of a table whose size is unknown, row 0 is there.
        role.below = min(role.below or _INT_MAX, rows or 1)
    elif key in _CONTROL:
        role.values = _CONTROL[key]
    elif key in _AXES or (node.op_type.startswith("Reduce") and index == 1):
        role.axes = True
    elif node.op_type == "OneHot" and index == 0:
        depth = _constant(node.inputs[1])
        role.below = min(role.below or _INT_MAX, int(depth.flat[0]) if depth is not None else 1)
    elif node.op_type in _COMPARISONS:
        other = _constant(node.inputs[1 - index]) if index < 2 else None
        if other is not None and 0 < other.size <= 16 and other.dtype.kind in "iuf":
            role.constants += tuple(float(number) for number in other.flat)
    elif key in {("LSTM", 4), ("GRU", 4), ("RNN", 4), ("ReverseSequence", 1)}:
        role.lengths = True
    elif node.domain == "ai.onnx.ml":
        role.words += _words(node)


def _indexed(node: ir.Node, index: int) -> ir.Value | None:
    if node.op_type == "EmbedLayerNormalization":
        table = _EMBEDDINGS.get(index)
    else:
        table = _INDEXED.get((node.op_type, index))
    return node.inputs[table] if table is not None and table < len(node.inputs) else None


def _rows(node: ir.Node, table: ir.Value) -> int | None:
    shape = _shape(table)
    if not shape:
        return None
    axis = node.attributes.get_int("axis", 0)
    if node.op_type.endswith("ND"):
        sizes = [size for size in shape if isinstance(size, int)]
        return min(sizes) if len(sizes) == len(shape) else None
    size = shape[axis] if -len(shape) <= axis < len(shape) else None
    return size if isinstance(size, int) else None


def _shape(value: ir.Value) -> ir.Shape | None:
    if value.shape is not None:
        return value.shape
    producer = value.producer()
    if producer is None:
        tensor = value.const_value
        return None if tensor is None else ir.Shape(tensor.shape.numpy())
    if producer.op_type in {"DequantizeLinear", "Cast", "Identity"} and producer.inputs[0]:
        return _shape(producer.inputs[0])
    constant = _constant(value)
    return None if constant is None else ir.Shape(constant.shape)


def _constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def _words(node: ir.Node) -> tuple[str, ...]:
    words: list[str] = []
    for name in ("cats_strings", "keys_strings", "classlabels_strings", "string_vocabulary"):
        attribute = node.attributes.get(name)
        if attribute is not None and not attribute.is_ref():
            words.extend(attribute.as_strings())
    return tuple(words)
