"""What exporters write in several nodes, written so that it can run on integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from graphopt.model.scopes import Scope, scopes
from graphopt.pipeline.contract import Rewrite
from graphopt.rewrite import uses
from graphopt.rewrite.constants import (
    add_initializer,
    array,
    constant,
    integers,
    is_op,
    scalar,
)
from graphopt.rewrite.names import Names
from graphopt.rewrite.selection import address
from graphopt.rewrite.shapes import Shapes
from graphopt.rewrite.uses import only_user
from passes.quantize.static.layers import bounds
from passes.quantize.static.seeds import joins
from passes.quantize.static.settings import Settings

_TOLERANCE = 1e-6


def rewrites(model: ir.Model, settings: Settings) -> Iterator[Rewrite]:
    """Yield one rewrite for each place that the target runs on integers in other operators only.

    - HardSwish, also written out as x * Clip(x + 3, 0, 6) / 6: as x * HardSigmoid(x).
    - Clip(x + b, 0, c), which is left of it where the 6 went elsewhere: as c * HardSigmoid(x).
    - ReduceMean over all spatial axes: as GlobalAveragePool.
    - Gemm with factors of a constant matrix and a constant bias: with those multiplied.
    - Sub of and Div by a constant: as Add and Mul.
    """
    for scope in list(scopes(model)):
        if scope.function is not None:
            continue
        for node in list(scope.graph):
            if node.graph is None or not joins(node, scope, settings):
                continue
            found = (
                _hard_swish(node, scope, model, settings)
                or _shifted_clip(node, scope, model, settings)
                or _global_pool(node, scope, model, settings)
                or _plain_gemm(node, scope, model)
                or _by_constant(node, scope, model, settings)
            )
            if found is not None:
                yield found


def _rewrite(
    node: ir.Node,
    scope: Scope,
    why: str,
    new: list[ir.Node],
    prepare: Callable[[], None] = lambda: None,
) -> Rewrite:
    def apply() -> None:
        prepare()
        old = node.outputs[0]
        last = new[-1].outputs[0]
        last.name, last.type, last.shape = last.name, old.type, old.shape
        assert node.graph is not None
        node.graph.insert_before(node, new)
        uses.replace(old, last)
        uses.remove(node)

    return Rewrite(address(node, scope), why, apply, {"operator": node.op_type})


def _hard_swish(node: ir.Node, scope: Scope, model: ir.Model, settings: Settings) -> Rewrite | None:
    if "HardSigmoid" not in settings.target.rules:
        return None
    value: ir.Value | None = None
    if is_op(node, "HardSwish"):
        value = node.inputs[0]
    elif (sixth := _divided_by_six(node)) is not None:
        value = _gated(sixth)
    elif is_op(node, "Mul"):
        value = _gated_by_share(node)
    if value is None:
        return None
    names = Names.of(model)
    base = node.outputs[0].name
    gate = ir.Node(
        "",
        "HardSigmoid",
        [value],
        [ir.AttrFloat32("alpha", 1 / 6), ir.AttrFloat32("beta", 0.5)],
        name=names.fresh(f"{base}_gate_node"),
    )
    _named(gate, names.fresh(f"{base}_gate"), node.outputs[0])
    product = ir.Node("", "Mul", [value, gate.outputs[0]], name=node.name)
    _named(product, names.fresh(f"{base}_product"), node.outputs[0])
    return _rewrite(node, scope, "HardSwish as x * HardSigmoid(x)", [gate, product])


def _shifted_clip(
    node: ir.Node, scope: Scope, model: ir.Model, settings: Settings
) -> Rewrite | None:
    if "HardSigmoid" not in settings.target.rules or not is_op(node, "Clip"):
        return None
    limit, moved = bounds(node), node.inputs[0]
    added = None if moved is None else moved.producer()
    if limit is None or limit[0] != 0 or limit[1] == float("inf") or added is None:
        return None
    if not is_op(added, "Add") or only_user(added.outputs[0]) is not node:
        return None
    offsets = [scalar(value) for value in added.inputs]
    value, offset = added.inputs[0], offsets[1]
    if offset is None:
        value, offset = added.inputs[1], offsets[0]
    if offset is None or offset <= 0 or value is None or not _is_bare(added):
        return None
    names, base = Names.of(model), node.outputs[0].name
    gate = ir.Node(
        "",
        "HardSigmoid",
        [value],
        [ir.AttrFloat32("alpha", 1 / limit[1]), ir.AttrFloat32("beta", offset / limit[1])],
        name=names.fresh(f"{base}_gate_node"),
    )
    _named(gate, names.fresh(f"{base}_gate"), node.outputs[0])
    graph = node.graph
    assert graph is not None
    scaled = ir.Node("", "Mul", [gate.outputs[0], None], name=node.name)
    _named(scaled, names.fresh(f"{base}_scaled"), node.outputs[0])

    def factor() -> None:
        held = ir.Tensor(np.asarray(limit[1], np.float32))
        scaled.replace_input_with(1, add_initializer(graph, names.fresh(f"{base}_factor"), held))

    why = "a sum that is limited as a multiple of HardSigmoid"
    return _rewrite(node, scope, why, [gate, scaled], factor)


def _is_bare(node: ir.Node) -> bool:
    """Whether a scalar that a node adds does not add axes to the result."""
    ranks = [len(tensor.shape) for value in node.inputs if (tensor := constant(value)) is not None]
    return all(rank <= 1 for rank in ranks)


def _named(node: ir.Node, name: str, like: ir.Value) -> None:
    node.outputs[0].name = name
    node.outputs[0].type, node.outputs[0].shape = like.type, like.shape


def _near(value: ir.Value | None, number: float) -> bool:
    found = scalar(value)
    return found is not None and abs(found - number) <= _TOLERANCE * max(1.0, number)


def _divided_by_six(node: ir.Node) -> ir.Node | None:
    """Return what computes the numerator of a quotient by 6."""
    if is_op(node, "Div") and _near(node.inputs[1], 6.0):
        numerator = node.inputs[0]
    elif is_op(node, "Mul") and any(_near(value, 1 / 6) for value in node.inputs):
        numerator = node.inputs[0] if _near(node.inputs[1], 1 / 6) else node.inputs[1]
    else:
        return None
    producer = None if numerator is None else numerator.producer()
    return producer if numerator is not None and only_user(numerator) is node else None


def _gated(product: ir.Node) -> ir.Value | None:
    """Return x where a node computes x * Clip(x + 3, 0, 6)."""
    if not is_op(product, "Mul"):
        return None
    for value, other in (product.inputs, reversed(product.inputs)):
        gate = None if other is None else other.producer()
        if value is not None and gate is not None and _is_gate(gate, value):
            return value
    return None


def _gated_by_share(product: ir.Node) -> ir.Value | None:
    """Return x where a node computes x * (Clip(x + 3, 0, 6) / 6)."""
    for value, other in (product.inputs, reversed(product.inputs)):
        share = None if other is None else other.producer()
        gate = None if share is None else _divided_by_six(share)
        if value is not None and gate is not None and _is_gate(gate, value):
            return value
    return None


def _is_gate(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node computes Clip(value + 3, 0, 6) for nobody but one reader."""
    if not is_op(node, "Clip") or bounds(node) != (0.0, 6.0):
        return False
    moved = node.inputs[0]
    added = None if moved is None else moved.producer()
    if added is None or not is_op(added, "Add") or value not in added.inputs:
        return False
    other = added.inputs[1] if added.inputs[0] is value else added.inputs[0]
    return _near(other, 3.0) and only_user(node.outputs[0]) is not None


def _global_pool(
    node: ir.Node, scope: Scope, model: ir.Model, settings: Settings
) -> Rewrite | None:
    if "GlobalAveragePool" not in settings.target.rules or not is_op(node, "ReduceMean"):
        return None
    value, rank = node.inputs[0], Shapes.of(model).rank(node.inputs[0])
    axes = node.attributes.get_ints("axes", None) if "axes" in node.attributes else None
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = integers(node.inputs[1])
    if value is None or rank is None or rank < 3 or axes is None:
        return None
    if sorted(axis % rank for axis in axes) != list(range(2, rank)):
        return None
    names = Names.of(model)
    base = node.outputs[0].name
    pool = ir.Node("", "GlobalAveragePool", [value], name=node.name)
    pool.outputs[0].name = names.fresh(f"{base}_pool")
    pool.outputs[0].type = node.outputs[0].type
    new = [pool]
    if not node.attributes.get_int("keepdims", 1):
        flat = ir.Node("", "Flatten", [pool.outputs[0]], name=names.fresh(f"{base}_flat_node"))
        flat.outputs[0].name = names.fresh(f"{base}_flat")
        new.append(flat)
    return _rewrite(node, scope, "a mean over all spatial axes is a global pool", new)


def _plain_gemm(node: ir.Node, scope: Scope, model: ir.Model) -> Rewrite | None:
    if not is_op(node, "Gemm"):
        return None
    factors = [(1, node.attributes.get_float("alpha", 1.0) or 0.0)]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        factors.append((2, node.attributes.get_float("beta", 1.0) or 0.0))
    if all(factor == 1.0 for _, factor in factors):
        return None
    tensors = [constant(node.inputs[index]) for index, _ in factors]
    if any(tensor is None or tensor.dtype != ir.DataType.FLOAT for tensor in tensors):
        return None

    def apply() -> None:
        assert node.graph is not None
        for index, factor in factors:
            old, numbers = node.inputs[index], array(node.inputs[index])
            assert old is not None
            assert numbers is not None
            held = ir.Tensor((numbers * np.float32(factor)).astype(np.float32))
            name = Names.of(model).fresh(f"{old.name}_scaled")
            node.replace_input_with(index, add_initializer(node.graph, name, held))
            uses.remove_unread([old])
        for attribute in ("alpha", "beta"):
            node.attributes.pop(attribute, None)

    why = "factors multiplied into the constants of a Gemm"
    return Rewrite(address(node, scope), why, apply, {"operator": node.op_type})


def _by_constant(
    node: ir.Node, scope: Scope, model: ir.Model, settings: Settings
) -> Rewrite | None:
    if node.op_type in settings.target.rules or not is_op(node, "Sub", "Div"):
        return None
    tensor = constant(node.inputs[1])
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or constant(node.inputs[0]) is not None:
        return None
    numbers = array(node.inputs[1])
    if numbers is None or numbers.size > 1 << 16 or (is_op(node, "Div") and not numbers.all()):
        return None
    producer = None if node.inputs[0] is None else node.inputs[0].producer()
    rule = None if producer is None else settings.target.rule(producer)
    if rule is None or rule.float_output:
        # Nothing that is float has a gain by it, and fusions of attention know it as it is.
        return None
    subtracts = is_op(node, "Sub")
    names = Names.of(model)
    base = node.outputs[0].name

    def apply() -> None:
        assert node.graph is not None
        held = ir.Tensor(np.asarray(-numbers if subtracts else 1 / numbers, np.float32))
        name = names.fresh(f"{base}_{'negative' if subtracts else 'inverse'}")
        other = add_initializer(node.graph, name, held)
        new = ir.Node("", "Add" if subtracts else "Mul", [node.inputs[0], other], name=node.name)
        _named(new, names.fresh(f"{base}_{new.op_type.lower()}"), node.outputs[0])
        node.graph.insert_before(node, new)
        uses.replace(node.outputs[0], new.outputs[0])
        uses.remove(node)

    why = "a difference as a sum" if subtracts else "a quotient as a product"
    return Rewrite(address(node, scope), why, apply, {"operator": node.op_type})
