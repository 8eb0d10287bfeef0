"""Shapes computed at run time that could be written down."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Declined, Rewrite
from graphopt.rewrite.constants import add_constant, constant, is_op, opset
from graphopt.rewrite.names import Names
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import is_unused, remove
from passes.cleanup.reshapes import constant_target
from passes.cleanup.sites import int_setting, place


def rewrites(model: ir.Model) -> Iterator[Rewrite | Declined]:
    """Yield one rewrite per Reshape whose computed target can be a constant.

    A batch size that Shape and Gather fetch only to hand it on is a copied axis (0), and one size
    that nobody knows is what is left (-1): with a dynamic batch, too, the chain that
    computes the target is not needed.
    """
    shapes = Shapes.of(model)
    for scope in scopes(model):
        if opset(model, scope.function) < 5:
            continue
        for node in scope.graph:
            if is_op(node, "Reshape") and len(node.inputs) == 2 and node.inputs[1] is not None:
                yield from _target(scope, node, shapes, model)


def _target(scope: Scope, node: ir.Node, shapes: Shapes, model: ir.Model) -> Iterator[Rewrite]:
    elements = shapes.elements(node.inputs[1])
    if constant(node.inputs[1]) is not None or elements is None:
        return
    if int_setting(node, "allowzero", 0) is None or 0 in elements:
        return
    target = constant_target(shapes.shape(node.inputs[0]), elements)
    if target is not None:
        yield Rewrite(
            place(scope, node),
            f"its target {list(elements)} is {list(target)} for every input",
            partial(_write, scope, node, target, model),
        )


def _write(scope: Scope, node: ir.Node, target: tuple[int, ...], model: ir.Model) -> None:
    computed = node.inputs[1]
    name = Names.of(model).fresh(f"{node.outputs[0].name}_shape")
    tensor = ir.Tensor(np.array(target, np.int64))
    written = add_constant(node, name, tensor, in_function=scope.function is not None)
    node.replace_input_with(1, written)
    # A size that is copied is written as 0; that no other size is 0 was seen to before.
    node.attributes.pop("allowzero", None)
    producer = None if computed is None else computed.producer()
    if producer is not None and all(is_unused(output) for output in producer.outputs):
        remove(producer)
