"""From PyTorch: `torch.export`, then `torch.onnx`, then a comparison with the network itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import onnx_ir as ir

from graphopt.convert.contract import Conversion, Dim, Options
from graphopt.convert.finishing import cleaned, finish, require
from graphopt.convert.inner_precision import inner_tolerances
from graphopt.convert.interface import rename_dims
from graphopt.convert.onnx.opset import to_opset
from graphopt.convert.parity import Reference
from graphopt.convert.quiet import quiet
from graphopt.convert.reasons import first_line
from graphopt.convert.torch.arrays import to_numpy, to_torch
from graphopt.convert.torch.attention import masks_as_given, settle_layout
from graphopt.convert.torch.batch import with_free_batch
from graphopt.convert.torch.errors import export_reason, no_graph_on_stderr, trace_error
from graphopt.convert.torch.files import kind_of
from graphopt.convert.torch.interface import dim_names, name_values, static_notes
from graphopt.convert.torch.network import Network, open_network
from graphopt.convert.torch.outputs import left_out, only_tensors
from graphopt.convert.torch.recurrence import free_lengths, settle_lengths, without_projections
from graphopt.convert.unsupported import missing_kernels
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array, Batch

if TYPE_CHECKING:
    import torch

_LARGEST_SIZE = 2**31 - 1
_OLDEST_OPSET = 18
"""What torch.onnx writes; for an older one, the model is lowered."""
_FLOAT = "convert network.float(), with example inputs of float32"


def recognises(path: Path) -> bool:
    """Whether PyTorch wrote a file; torch is not imported for it."""
    return kind_of(path) is not None


def convert(source: str, options: Options) -> Conversion:
    """Export a program, or a network with example inputs.

    Args:
        source: A `.pt2` file, a TorchScript archive (with `options.data`), a state dict (with
            `options.model`), or `module:callable`.
        options: What to ask for.

    Raises:
        GraphoptError: It cannot be read or exported.
        CheckFailed: ONNX Runtime computes something else than PyTorch on the example inputs.
    """
    require(["torch"], "torch", "PyTorch")
    with quiet():
        network = open_network(source, options)
        if network.settled is not None:
            options = replace(options, static=True, dynamic_shapes={})
        program, freed = _program(network, options)
        dropped = left_out(program, network.source)
        model = _to_onnx(program, network.source, options.opset)
        rename_dims(model, {})
        name_values(model, program, _leaf_names(network))
        examples = _examples(model, network)
        names = dim_names(model, options, examples)
    rename_dims(model, names)
    ranges = _ranges(program, names)
    notes = [*network.notes, *freed, *dropped]
    if network.settled is not None:
        notes.append(f"every size is fixed: {network.settled}")
    elif not options.static:
        notes += static_notes(model, options, _why_static(network, program))
    notes += [
        f"{name} may go from {low} to {'any size' if high == _LARGEST_SIZE else high}:"
        " torch exported the network for these sizes"
        for name, (low, high) in ranges.items()
        if low > 1 or high < _LARGEST_SIZE
    ]
    with quiet(), missing_kernels(model, network.source, _FLOAT):
        reference = _reference(network, program)
        allowed = inner_tolerances(model, examples, reference, options)
        return finish(
            model, examples, reference, options, ranges=ranges, allowed=allowed, notes=notes
        )


def _program(network: Network, options: Options) -> tuple[torch.export.ExportedProgram, list[str]]:
    """Return what is exported to ONNX, and a note if it is not what was in the file."""
    program = network.program
    if program is None:
        return _exported(network, options), []
    if options.static and program.range_constraints:
        return _traced(program.module(check_guards=False), network, None), []
    if options.static or program.range_constraints:
        return program, []
    freed = with_free_batch(program, (network.args, network.kwargs))
    if freed is None:
        return program, []
    note = (
        "the batch, fixed in the program, was freed: each sample gives what it gave there,"
        " as compared at twice the batch; --static keeps it"
    )
    return freed, [note]


def _exported(network: Network, options: Options) -> torch.export.ExportedProgram:
    """Trace a network; the batch varies where the network lets it, named dimensions must."""
    assert network.module is not None
    args, kwargs = network.args, network.kwargs
    if not options.static:
        args, kwargs = _with_room(network)
    shapes = None if options.static else _dynamic_shapes(network, args, kwargs, options)
    return _traced(network.module, replace(network, args=args, kwargs=kwargs), shapes)


def _traced(
    module: torch.nn.Module, network: Network, shapes: dict[str, Any] | None
) -> torch.export.ExportedProgram:
    import torch

    try:
        with free_lengths(), masks_as_given(), no_graph_on_stderr():
            return torch.export.export(module, network.args, network.kwargs, dynamic_shapes=shapes)
    except Exception as error:
        # torch.export raises what its tracer, its solver or the network raises.
        raise trace_error(error, network.source) from error


def _with_room(network: Network) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat a batch of 1, which torch.export would take for a constant."""
    import torch
    from torch.utils import _pytree as pytree

    def doubled(leaf: object) -> object:
        alone = isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == 1
        return torch.cat([leaf, leaf]) if alone else leaf  # type: ignore[list-item]  # a tensor

    wider = pytree.tree_map(doubled, (network.args, network.kwargs))
    assert network.module is not None
    try:
        with torch.no_grad():
            network.module(*wider[0], **wider[1])
    except Exception:
        # The network takes no other batch: export it as its author runs it.
        return network.args, network.kwargs
    return cast("tuple[tuple[Any, ...], dict[str, Any]]", wider)


def _dynamic_shapes(
    network: Network, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
) -> dict[str, Any]:
    """Say to torch.export which axes vary, in the structure of the forward method's inputs."""
    import torch
    from torch.utils import _pytree as pytree

    assert network.module is not None
    dims: dict[str, object] = {}
    asked = dict(options.dynamic_shapes)

    def of_leaf(path: Sequence[object], leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return None
        name = _path_name(path)
        if name not in asked:
            return {0: torch.export.Dim.AUTO} if leaf.ndim else {}
        wanted = asked.pop(name)
        _check_sizes(name, wanted, tuple(leaf.shape), network.source)
        return {
            axis: dims.setdefault(dim, torch.export.Dim(dim))
            for axis, dim in enumerate(wanted)
            if isinstance(dim, str)
        }

    bound = inspect.signature(network.module.forward).bind(*args, **kwargs).arguments
    shapes = cast("dict[str, Any]", pytree.tree_map_with_path(of_leaf, dict(bound)))
    if asked:
        raise GraphoptError(f"has no input {', '.join(asked)}", file=network.source)
    return shapes


def _leaf_names(network: Network) -> list[str]:
    """Name the tensors among the inputs as the forward method does; torch.export lowers them."""
    import torch
    from torch.utils import _pytree as pytree

    if network.module is not None:
        bound = inspect.signature(network.module.forward).bind(*network.args, **network.kwargs)
        arguments = dict(bound.arguments)
    elif network.program is not None:
        signature = network.program.module_call_graph[0].signature
        names = getattr(signature, "forward_arg_names", None) or ()
        arguments = dict(zip(names, network.args, strict=False)) | dict(network.kwargs)
    else:
        return []
    leaves, _ = pytree.tree_flatten_with_path(arguments)
    return [_path_name(path) for path, leaf in leaves if isinstance(leaf, torch.Tensor)]


def _path_name(path: Sequence[object]) -> str:
    return "_".join(str(_key(part)) for part in path)


def _key(part: object) -> object:
    return getattr(part, "key", getattr(part, "idx", getattr(part, "name", part)))


def _check_sizes(name: str, wanted: Sequence[Dim], shape: Sequence[int], source: str) -> None:
    if len(wanted) != len(shape):
        raise GraphoptError(f"{name} has {len(shape)} dimensions, not {len(wanted)}", file=source)
    for axis, dim in enumerate(wanted):
        if isinstance(dim, int) and dim != shape[axis]:
            raise GraphoptError(
                f"axis {axis} of {name} is {shape[axis]} in the example inputs, not {dim}",
                file=source,
            )


def _to_onnx(program: torch.export.ExportedProgram, source: str, opset: int | None) -> ir.Model:
    import torch

    program = without_projections(program)
    settle_layout(program)
    translations = settle_lengths(program)
    try:
        with only_tensors(program):
            exported = torch.onnx.export(
                program,
                opset_version=None if opset is None else max(opset, _OLDEST_OPSET),
                dynamo=True,
                verbose=False,
                custom_translation_table=translations,
            )
    except Exception as error:
        # The exporter wraps whatever its steps raise.
        raise GraphoptError(export_reason(error, program), file=source) from error
    assert exported is not None
    model: ir.Model = exported.model
    given = model.opset_imports.get("", 0)
    if opset is None or opset == given:
        return model
    if opset > given:
        raise GraphoptError(
            f"torch.onnx gives opset {given} where {opset} is asked for",
            file=source,
            fix=f"ask for --opset {given} or an older one",
        )
    # Cleaned up first: an axis that is computed from constants cannot become an attribute.
    model = cleaned(model, keep_notes=True)
    to_opset(model, opset, source)
    return model


def _why_static(network: Network, program: torch.export.ExportedProgram) -> str:
    if network.program is None:
        return "the network makes a constant of it, as len(x) does; x.shape[0] leaves it free"
    why = "the program fixes it" if program.range_constraints else "it was exported so"
    return f"{why}; torch.export with dynamic_shapes frees it"


def _ranges(
    program: torch.export.ExportedProgram, names: Mapping[str, str]
) -> dict[str, tuple[int, int]]:
    """Return the sizes that each named dimension may take: those of all symbols of its name."""
    ranges: dict[str, tuple[int, int]] = {}
    for symbol, allowed in program.range_constraints.items():
        if (name := names.get(str(symbol))) is not None:
            lowest, highest = ranges.get(name, (1, _LARGEST_SIZE))
            # torch starts at 2 where it only means that a size of 1 was not traced.
            low = low if (low := _bounded(allowed.lower)) > 2 else 1
            ranges[name] = max(lowest, low), min(highest, _bounded(allowed.upper))
    return ranges


def _bounded(size: Any) -> int:
    """Make an int of a sympy number, which may be infinite."""
    return _LARGEST_SIZE if size >= _LARGEST_SIZE else int(size)


def _examples(model: ir.Model, network: Network) -> list[Array]:
    import torch
    from torch.utils import _pytree as pytree

    leaves = pytree.tree_leaves((network.args, network.kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    names = [value.name or "" for value in model.graph.inputs]
    if len(tensors) != len(names):
        raise GraphoptError(
            f"the example inputs hold {len(tensors)} tensors, the exported model has"
            f" {len(names)} inputs ({', '.join(names)})",
            file=network.source,
        )
    return [to_numpy(tensor) for tensor in tensors]


def _reference(network: Network, program: torch.export.ExportedProgram) -> Reference:
    """Run the network itself, or else the program, on arrays."""
    import torch
    from torch.utils import _pytree as pytree

    # Guards are text of the file; the sizes that are fed here respect its ranges.
    module = network.original or network.module or program.module(check_guards=False)
    leaves, structure = pytree.tree_flatten((network.args, network.kwargs))

    def run(batch: Batch) -> Sequence[Array]:
        arrays = iter(batch.values())
        fed = [
            to_torch(next(arrays)) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
        ]
        args, kwargs = pytree.tree_unflatten(fed, structure)
        try:
            with torch.no_grad():
                outputs = pytree.tree_leaves(module(*args, **kwargs))
        except Exception as error:
            # What the network raises is its own.
            raise GraphoptError(first_line(error), file=network.source) from error
        return [to_numpy(output) for output in outputs if isinstance(output, torch.Tensor)]

    return run
