"""Names, types and shapes of the inputs and outputs of what tf2onnx wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.convert.contract import Dim
from graphopt.convert.interface import avoid_clashes
from graphopt.convert.parity import Reference
from graphopt.convert.tensorflow.numbering import number_by_order
from graphopt.errors import GraphoptError
from graphopt.model import scopes
from graphopt.rewrite.shapes import Shapes
from graphopt.runtime.feeds import Array

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Interface:
    """What inputs and outputs are called and shaped, in the order of the source.

    Args:
        held: Names of the inputs in the exported model.
        inputs: Names they get.
        dtypes: Their types.
        dims: Their dimensions.
        outputs: Names of the outputs.
    """

    held: Sequence[str]
    inputs: Sequence[str]
    dtypes: Sequence[ir.DataType]
    dims: Sequence[tuple[Dim, ...]]
    outputs: Sequence[str]


def name_interface(model: ir.Model, interface: Interface) -> None:
    """Give inputs and outputs the names and order of the source, and inputs its shapes.

    Inner values lose their shapes, in which an exporter writes sizes it is not sure of. An input
    that nothing reads is kept.
    """
    graph = model.graph
    found = {value.name: value for value in graph.inputs}
    graph.inputs.clear()
    for held, name, dtype, dims in zip(
        interface.held, interface.inputs, interface.dtypes, interface.dims, strict=True
    ):
        value = found.get(held) or ir.Value(name=held)
        value.dtype = dtype
        value.shape = ir.Shape(dims)
        graph.inputs.append(value)
        value.name = name
    for value, name in zip(graph.outputs, interface.outputs, strict=True):
        value.name = name
    number_by_order(model)
    avoid_clashes(model)
    outputs = set(graph.outputs)
    for scope in scopes(model):
        for node in scope.graph:
            for value in node.outputs:
                if value not in outputs:
                    value.shape = None


def name_output_dims(
    model: ir.Model,
    known: Sequence[tuple[int | None, ...] | None],
    examples: Sequence[Array],
    reference: Reference,
) -> None:
    """Shape the outputs: as inferred; else as TensorFlow says; else as runs show.

    Args:
        model: Its outputs get shapes.
        known: What the source knows of the outputs' sizes.
        examples: Example inputs; they are run, and run again with one sample more.
        reference: The source.
    """
    names = [value.name or "" for value in model.graph.inputs]
    sizes = {
        dim.value: array.shape[axis]
        for value, array in zip(model.graph.inputs, examples, strict=True)
        for axis, dim in enumerate(value.shape or ())
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    }
    shapes = Shapes(model)
    first = [output.shape for output in reference(dict(zip(names, examples, strict=True)))]
    moved = _shapes_after(model, examples, reference)
    for position, value in enumerate(model.graph.outputs):
        inferred = shapes.shape(value)
        told = known[position]
        dims: list[Dim] = []
        for axis, size in enumerate(first[position]):
            dim = inferred[axis] if inferred is not None and len(inferred) > axis else None
            if isinstance(dim, str) and not set(_IDENTIFIER.findall(dim)) <= sizes.keys():
                dim = None
            if dim is None and told is not None:
                dim = told[axis]
            if dim is None and not sizes:
                dim = size
            if dim is None:
                dim = _tracking(position, axis, size, sizes, moved) or f"{value.name}_dim_{axis}"
            dims.append(dim)
        value.shape = ir.Shape(dims)


def _shapes_after(
    model: ir.Model, examples: Sequence[Array], reference: Reference
) -> dict[str, list[tuple[int, ...]]]:
    """By dynamic dimension: the shapes of the outputs when it is one larger."""
    found: dict[str, list[tuple[int, ...]]] = {}
    dims = {
        dim.value
        for value in model.graph.inputs
        for dim in value.shape or ()
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    }
    for name in sorted(dims):
        feeds: dict[str, Array] = {}
        for value, array in zip(model.graph.inputs, examples, strict=True):
            larger = array
            for axis, dim in enumerate(value.shape or ()):
                if isinstance(dim, ir.SymbolicDim) and dim.value == name:
                    size = larger.shape[axis]
                    larger = np.take(larger, np.arange(size + 1) % max(size, 1), axis=axis)
            feeds[value.name or ""] = larger
        try:
            found[name] = [output.shape for output in reference(feeds)]
        except GraphoptError:
            # The source does not take this size: the comparison notes it.
            continue
    return found


def _tracking(
    position: int,
    axis: int,
    size: int,
    sizes: dict[str, int],
    moved: dict[str, list[tuple[int, ...]]],
) -> str | None:
    """Name the dimension that an output's axis is equal to, before and after it grew."""
    for name, shapes in moved.items():
        shape = shapes[position]
        if len(shape) > axis and size == sizes[name] and shape[axis] == size + 1:
            return name
    return None
