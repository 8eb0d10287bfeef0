"""Outputs of an exported program that are no tensors: numbers, sizes, strings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.convert.torch.interface import output_keys
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import torch


def left_out(program: torch.export.ExportedProgram, source: str) -> list[str]:
    """Note which outputs an ONNX model cannot have; None counts as no output.

    Raises:
        GraphoptError: There is no other.
    """
    kept = _kept(program)
    if not any(kept):
        raise GraphoptError(
            "returns no tensor", file=source, fix="convert a network that returns one"
        )
    keys = output_keys(program)
    values = program.graph.output_node().args[0]
    assert isinstance(values, (list, tuple))
    names = [
        repr(keys[position] or position)
        for position, (value, stays) in enumerate(zip(values, kept, strict=True))
        if not stays and value is not None
    ]
    if not names:
        return []
    return [f"left out of the outputs, as no tensor: {', '.join(names)}"]


@contextlib.contextmanager
def only_tensors(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Let a program return its tensors alone, as a tuple, while the block runs."""
    from torch.utils import _pytree as pytree

    kept = _kept(program)
    if all(kept):
        yield
        return
    output, signature = program.graph.output_node(), program.graph_signature
    call = program.module_call_graph[0].signature
    assert call is not None
    before = output.args, signature.output_specs, call.outputs, call.out_spec
    values = output.args[0]
    assert isinstance(values, (list, tuple))
    stays = list(zip(values, signature.output_specs, kept, strict=True))
    try:
        output.args = (tuple(value for value, _, stay in stays if stay),)
        signature.output_specs = [spec for _, spec, stay in stays if stay]
        returned = [spec.arg for spec in signature.output_specs if _is_returned(spec)]
        call.outputs = returned
        call.out_spec = pytree.tree_structure(tuple(range(len(returned))))
        program.graph_module.recompile()
        yield
    finally:
        output.args, signature.output_specs, call.outputs, call.out_spec = before
        program.graph_module.recompile()


def _kept(program: torch.export.ExportedProgram) -> list[bool]:
    """Tell of each output whether it is a tensor, or a change of a buffer, which is none."""
    from torch.export.graph_signature import TensorArgument

    return [isinstance(spec.arg, TensorArgument) for spec in program.graph_signature.output_specs]


def _is_returned(spec: torch.export.graph_signature.OutputSpec) -> bool:
    from torch.export.graph_signature import OutputKind

    return spec.kind is OutputKind.USER_OUTPUT
