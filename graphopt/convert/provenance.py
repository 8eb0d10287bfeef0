"""What exporters write down about the machine they ran on."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

import onnx_ir as ir

from graphopt.model import scopes
from graphopt.model.source_paths import source_path

_STACK_TRACE = "pkg.torch.onnx.stack_trace"


def remove_source_paths(model: ir.Model) -> None:
    """Remove the stack traces of torch.onnx, and metadata that hold an absolute path."""
    for metadata in _metadata(model):
        for key in [
            key for key, text in metadata.items() if key == _STACK_TRACE or source_path(text)
        ]:
            del metadata[key]


def _metadata(model: ir.Model) -> Iterator[MutableMapping[str, str]]:
    yield model.metadata_props
    yield from (function.metadata_props for function in model.functions.values())
    for scope in scopes(model):
        yield scope.graph.metadata_props
        yield from (value.metadata_props for value in scope.graph.inputs)
        yield from (value.metadata_props for value in scope.graph.initializers.values())
        for node in scope.graph:
            yield node.metadata_props
            yield from (value.metadata_props for value in node.outputs)
