"""The numbers that a layer reads as its weight, followed back to the constant that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.constants import Array, constant, integers, is_op
from graphopt.rewrite.grid import Grid

_LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True)
class Step:
    """A node between a constant and its reader.

    Args:
        op_type: Cast or Transpose, or Reshape for all that only shapes anew.
        to: The type, permutation or shape.
    """

    op_type: str
    to: tuple[int, ...] | ir.DataType

    def __call__(self, array: Array) -> Array:
        """Do what the node does."""
        if isinstance(self.to, ir.DataType):
            return array.astype(self.to.numpy())
        if self.op_type == "Transpose":
            return array.transpose(self.to)
        return array.reshape(self.to)


@dataclass(frozen=True)
class Stored:
    """A constant, and what is done to it before a layer reads it.

    Args:
        root: Holds the tensor.
        steps: From there to the layer.
    """

    root: ir.Value
    steps: tuple[Step, ...] = ()

    @property
    def tensor(self) -> ir.TensorProtocol:
        """What is stored."""
        tensor = constant(self.root)
        if tensor is None:
            raise ValueError(f"{self.root.name!r} is no constant any more")
        return tensor

    @property
    def dtype(self) -> ir.DataType:
        """The type of what the layer reads."""
        types = [step.to for step in self.steps if isinstance(step.to, ir.DataType)]
        return types[-1] if types else self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what the layer reads."""
        shape = tuple(int(size) for size in self.tensor.shape.numpy())
        for step in self.steps:
            if isinstance(step.to, ir.DataType):
                continue
            moved = step.op_type == "Transpose"
            shape = tuple(shape[axis] for axis in step.to) if moved else step.to
        return shape

    def transposed(self) -> Stored:
        """The same matrix, rows and columns exchanged."""
        return Stored(self.root, (*self.steps, Step("Transpose", (1, 0))))

    def array(self) -> Array:
        """Return what the layer reads, as float32 (float64 where it is double)."""
        return numbers(self.tensor, self.steps)

    def given_grid(self) -> Grid | None:
        """Return the grid that an earlier pass has put the numbers on, for the layer's axes."""
        grid = self.root.meta.get("graphopt.grid")
        if not isinstance(grid, Grid) or grid.block_size:
            return None
        axis = grid.axis
        for step in self.steps:
            if step.op_type != "Transpose" or isinstance(step.to, ir.DataType):
                return None
            axis = None if axis is None else step.to.index(axis % len(step.to))
        return Grid(grid.dtype, grid.scale, grid.zero_point, axis)


def numbers(tensor: ir.TensorProtocol, steps: tuple[Step, ...]) -> Array:
    """Return what comes out of a tensor behind some steps, as float32 (double stays)."""
    array = tensor.numpy()
    for step in steps:
        array = step(array)
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def stored_behind(value: ir.Value | None) -> Stored | None:
    """Follow a value back to its constant; None where it is computed from what varies."""
    steps: list[Step] = []
    while value is not None and constant(value) is None:
        node = value.producer()
        if node is None:
            return None
        step = _step(node)
        if step is None and not is_op(node, "Identity"):
            return None
        steps.extend(() if step is None else (step,))
        value = node.inputs[0]
    return None if value is None else Stored(value, tuple(reversed(steps)))


def _step(node: ir.Node) -> Step | None:
    if is_op(node, "Cast"):
        to = node.attributes.get("to")
        return None if to is None or to.is_ref() else Step("Cast", ir.DataType(to.as_int()))
    if not is_op(node, *_LAYOUT):
        return None
    before = stored_behind(node.inputs[0])
    if before is None or any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    if node.op_type == "Transpose":
        reverse = tuple(reversed(range(len(before.shape))))
        return Step("Transpose", tuple(node.attributes.get_ints("perm", reverse) or reverse))
    shape = _shaped(node, before.shape)
    return None if shape is None else Step("Reshape", shape)


def _shaped(node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1) or 0
        axis = axis % len(shape) if axis < 0 else axis
        return int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))
    said = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type == "Reshape":
        if said is None or node.attributes.get_int("allowzero", 0) == 1:
            return None
        wanted = [shape[i] if size == 0 else size for i, size in enumerate(said)]
        return np.broadcast_to(np.zeros((), np.bool_), shape).reshape(wanted).shape
    named = node.attributes.get_ints("axes", None)
    axes = said if said is not None else None if named is None else tuple(named)
    if node.op_type == "Squeeze":
        gone = axes if axes is not None else [i for i, size in enumerate(shape) if size == 1]
        dropped = {axis % len(shape) for axis in gone}
        return tuple(size for i, size in enumerate(shape) if i not in dropped)
    if axes is None:
        return None
    rank = len(shape) + len(axes)
    left, inserted = iter(shape), {axis % rank for axis in axes}
    return tuple(1 if i in inserted else next(left) for i in range(rank))


def readers(root: ir.Value) -> Iterator[tuple[ir.Node | None, int]]:
    """Yield who reads a constant in the end, and as which input; None: an output of a graph."""
    pending = [root]
    while pending:
        value = pending.pop()
        if value.is_graph_output():
            yield None, 0
        for node, index in value.uses():
            passes_on = is_op(node, "Identity", "Cast", *_LAYOUT) and index == 0
            if passes_on and stored_behind(node.outputs[0]) is not None:
                pending.append(node.outputs[0])
            else:
                yield node, index
