"""What callers of a model rely on: names, types and shapes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.model.declared_shapes import dims_of


def interface_change(before: ir.Model, after: ir.Model) -> str | None:
    """Say in one clause what differs between two interfaces; None: nothing.

    A more specific shape differs too: a caller that fed the batch that is gone is broken.
    """
    for kind, old, new in (
        ("input", _inputs(before), _inputs(after)),
        ("output", before.graph.outputs, after.graph.outputs),
    ):
        if change := _change(kind, old, new):
            return change
    return None


def _inputs(model: ir.Model) -> Sequence[ir.Value]:
    """Return what a caller can feed.

    Up to IR version 3 every weight had to be listed as an input and was fixed all the same: ONNX
    Runtime does not let it be fed.
    """
    if (model.ir_version or 0) > 3:
        return model.graph.inputs
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _change(kind: str, old: Sequence[ir.Value], new: Sequence[ir.Value]) -> str | None:
    names = [value.name for value in old]
    now = [value.name for value in new]
    if names != now:
        return f"the {kind}s were {_listed(names)} and are {_listed(now)}"
    for was, is_ in zip(old, new, strict=True):
        if was.type != is_.type:
            return f"{kind} {was.name!r} was {was.type} and is {is_.type}"
        if dims_of(was) != dims_of(is_):
            return f"{kind} {was.name!r} had the shape {was.shape} and has {is_.shape}"
        if was.is_initializer() and not is_.is_initializer():
            return f"{kind} {was.name!r} had a default and has none"
    return None


def _listed(names: Sequence[str | None]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
