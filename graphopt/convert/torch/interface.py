"""Names of what `torch.onnx` exports: inputs and outputs as in PyTorch, and dynamic dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.convert.contract import Options
from graphopt.errors import GraphoptError
from graphopt.rewrite.names import Names
from graphopt.runtime.feeds import Array

if TYPE_CHECKING:
    import torch

BATCH = "batch"
_RENAMED = "_orig"
"""What torch.onnx appends to the name of an input that is returned."""


def name_values(
    model: ir.Model, program: torch.export.ExportedProgram, own: Sequence[str] = ()
) -> None:
    """Name inputs after parameters, and outputs by the keys under which they are returned.

    Outputs that are returned under no key keep the names of torch's nodes.

    Args:
        model: The exported model. It is edited.
        program: What it was exported from.
        own: Names of the inputs in the network, of which torch.export keeps the lower case.
    """
    graph = model.graph
    _separate_returned_inputs(model)
    inputs = [str(name) for name in program.graph_signature.user_inputs]
    if [name.lower() for name in own] == inputs:
        inputs = list(own)
    if len(inputs) == len(graph.inputs):
        for value, name in zip(graph.inputs, inputs, strict=True):
            value.name = name
    keyed = _keyed_tensors(program)
    if len(keyed) == len(graph.outputs):
        _rename_outputs(graph, keyed)
    Names.forget(model)


def _separate_returned_inputs(model: ir.Model) -> None:
    """Call the copy of an input that is returned other than the input, which torch.onnx renames."""
    for value in model.graph.outputs:
        node = value.producer()
        source = node.inputs[0] if node is not None and node.op_type == "Identity" else None
        if source is not None and source.name == f"{value.name}{_RENAMED}":
            value.name = Names.of(model).fresh(f"{value.name}_output")


def _rename_outputs(graph: ir.Graph, keyed: Sequence[str | None]) -> None:
    taken = {value.name for value in graph.inputs}
    taken |= {value.name for value, key in zip(graph.outputs, keyed, strict=True) if key is None}
    for value, key in zip(graph.outputs, keyed, strict=True):
        if key is not None:
            number, name = 0, key if key not in taken else f"{key}_output"
            while name in taken:
                number += 1
                name = f"{key}_output_{number}"
            value.name = name
            taken.add(name)


def output_keys(program: torch.export.ExportedProgram) -> list[str | None]:
    """Return the key that each output of a program is returned under; None: under none."""
    from torch.export.graph_signature import OutputKind

    structure = program.call_spec.out_spec
    paths = [] if structure is None else list(_paths(structure))
    specs = program.graph_signature.output_specs
    kinds = {OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION}
    returned = [position for position, spec in enumerate(specs) if spec.kind in kinds]
    keys: list[str | None] = [None] * len(specs)
    if len(paths) == len(returned):
        for position, path in zip(returned, paths, strict=True):
            keys[position] = _joined(path)
    return keys


def _keyed_tensors(program: torch.export.ExportedProgram) -> list[str | None]:
    from torch.export.graph_signature import OutputKind, TensorArgument

    specs = program.graph_signature.output_specs
    return [
        key
        for key, spec in zip(output_keys(program), specs, strict=True)
        if spec.kind in {OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION}
        and isinstance(spec.arg, TensorArgument)
    ]


def _paths(structure: Any) -> Iterator[tuple[str | int, ...]]:
    if structure.is_leaf():
        yield ()
        return
    children = structure.children()
    for key, child in zip(_keys(structure, len(children)), children, strict=True):
        for path in _paths(child):
            yield (key, *path)


def _keys(structure: Any, count: int) -> list[str | int]:
    """Return the keys of a dict or the fields of a named tuple; positions of all others."""
    context = structure.context
    for keys in (context, getattr(context, "_fields", None), *_parts(context)):
        if (
            isinstance(keys, (list, tuple))
            and len(keys) == count
            and all(isinstance(key, str) for key in keys)
        ):
            return list(keys)
    return list(range(count))


def _parts(context: object) -> list[object]:
    """Look into the context of a dict with a default, or of a dataclass: a list of its parts."""
    return list(context) if isinstance(context, (list, tuple)) else []


def _joined(path: tuple[str | int, ...]) -> str | None:
    if not any(isinstance(key, str) for key in path):
        return None
    name = "_".join(map(str, path))
    return name if isinstance(path[0], str) else f"output_{name}"


def dim_names(model: ir.Model, options: Options, examples: Sequence[Array]) -> dict[str, str]:
    """Name the symbols of torch: as asked, `batch` along axis 0, else by input and axis.

    Args:
        model: The exported model.
        options: What was asked for.
        examples: One array per input.

    Raises:
        GraphoptError: An axis that is asked to vary cannot.
    """
    names = _asked_names(model, options)
    batch: int | None = None
    # Torch relates the batch of an input that the network does not use to no other: it comes last.
    for value, example in sorted(
        _shaped_inputs(model, examples), key=lambda item: _is_unused(item[0])
    ):
        for axis, dim in enumerate(value.shape or ()):
            if not isinstance(dim, ir.SymbolicDim) or dim.value is None:
                continue
            size = example.shape[axis]
            same = _is_unused(value) and size == batch
            if dim.value in names:
                batch = size if names[dim.value] == BATCH else batch
            elif axis == 0 and (same or BATCH not in names.values()):
                names[dim.value], batch = BATCH, size
            else:
                names[dim.value] = f"{value.name}_dim_{axis}"
    return names


def _is_unused(value: ir.Value) -> bool:
    return not value.uses() and not value.is_graph_output()


def _shaped_inputs(model: ir.Model, examples: Sequence[Array]) -> list[tuple[ir.Value, Array]]:
    pairs = zip(model.graph.inputs, examples, strict=True)
    return [(value, example) for value, example in pairs if value.shape is not None]


def _asked_names(model: ir.Model, options: Options) -> dict[str, str]:
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        wanted = options.dynamic_shapes.get(value.name or "")
        for axis, dim in enumerate(value.shape or ()):
            name = wanted[axis] if wanted is not None and axis < len(wanted) else None
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                if isinstance(name, str):
                    names[dim.value] = name
            elif isinstance(name, str):
                raise GraphoptError(
                    f"axis {axis} of {value.name} is {dim} in the program and cannot vary",
                    fix="export the program with dynamic_shapes, or leave the axis as it is",
                )
    return names


def static_notes(model: ir.Model, options: Options, why: str) -> list[str]:
    """Say of each input whose batch could not be made dynamic why that is."""
    return [
        f"axis 0 of {value.name} stays {value.shape[0]}: {why}"
        for value in model.graph.inputs
        if value.shape
        and isinstance(value.shape[0], int)
        and value.name not in options.dynamic_shapes
    ]
