"""Attention as `torch.export` can trace it, and `torch.onnx` decompose it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node


@contextlib.contextmanager
def masks_as_given() -> Iterator[None]:
    """Keep nn.Transformer from asking whether a mask is causal, which no trace can answer.

    It asks so as to choose a faster kernel; one that is not told so applies the mask as given.
    """
    from torch.nn.modules import transformer

    name = "_detect_is_causal_mask"
    before = getattr(transformer, name)

    def not_asked(mask: object, is_causal: bool | None = None, size: object = None) -> bool:
        return is_causal is True

    setattr(transformer, name, not_asked)
    try:
        yield
    finally:
        setattr(transformer, name, before)


def settle_layout(program: torch.export.ExportedProgram) -> None:
    """Make the output of scaled_dot_product_attention contiguous where a view reads it.

    A kernel leaves that output in an order in memory of its own, and `torch.export` writes a view
    where the order allows one. Decomposed for ONNX, attention with a mask has another order, and
    the view is an error. A copy in between is right in either order, and an Identity in ONNX.
    """
    from torch.fx import GraphModule

    for module in program.graph_module.modules():
        if isinstance(module, GraphModule) and _settle(module):
            module.recompile()


def _settle(module: GraphModule) -> bool:
    import torch

    aten = torch.ops.aten
    views = [
        node
        for node in module.graph.nodes
        if node.target in {aten.view.default, aten.reshape.default} and _is_attention(node.args[0])
    ]
    for view in views:
        source = view.args[0]
        with module.graph.inserting_before(view):
            copy = module.graph.call_function(
                aten.clone.default, (source,), {"memory_format": torch.contiguous_format}
            )
        copy.meta.update(source.meta)
        view.replace_input_with(source, copy)
    return bool(views)


def _is_attention(node: Node) -> bool:
    """Whether attention made a value, whose axes were only put in another order since."""
    import torch

    aten = torch.ops.aten
    while node.target in {aten.transpose.int, aten.permute.default}:
        node = node.args[0]  # type: ignore[assignment]  # a tensor comes first
    return node.target is aten.scaled_dot_product_attention.default
