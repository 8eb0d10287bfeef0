"""Pruning on the models of ONNX's own backend suite: every operator with its own test data.

Nothing goes in a model of one node, whose tensors are all inputs and outputs. So its slices are
also taken out as if these were not kept: what is computed of the rest has to be the rest of what
was computed, where a zero has taken the place of each slice that an input loses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from prune_runs import run as prune
from test_cleanup_backend_suite import DRAWN, cases, close, frozen, run

from graphopt.rewrite.names import Names
from graphopt.rewrite.shapes import Shapes
from passes.prune.analysis import couple_nodes
from passes.prune.coupling import Components, Coupling
from passes.prune.parameters import Parameters
from passes.prune.places import Ids, Mask, Place, Places
from passes.prune.removal import Removal

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the suite makes NaN and inf

Arrays = Sequence[Any]


def variants() -> Iterator[tuple[str, onnx.ModelProto, Arrays]]:
    for name, model, inputs, _ in cases():
        if any(word in name for word in DRAWN):
            continue
        held_inputs = {tensor.name for tensor in model.graph.initializer}
        for value in [v for v in model.graph.input if v.name in held_inputs]:
            model.graph.input.remove(value)
        model.ir_version = max(model.ir_version, 4)
        yield name, model, inputs
        for keep in (1, 2):
            held = frozen(model, inputs, keep)
            if held is not None:
                yield f"{name} with {keep} inputs", held, inputs[:keep]


def test_the_pass_leaves_models_that_compute_the_same() -> None:
    seen: Counter[str] = Counter()
    wrong = []
    for name, proto, inputs in variants():
        model = ir.from_proto(proto)
        try:
            rewrites, _, _ = prune(model, ratio=0.5)
        except onnx.checker.ValidationError:
            wrong.append(name)
            continue
        seen["changed" if rewrites else "unchanged"] += 1
        if rewrites:
            before, after = run(proto, inputs), run(ir.to_proto(model), inputs)
            if before is not None and (
                after is None or [np.shape(a) for a in after] != [np.shape(b) for b in before]
            ):
                wrong.append(name)
    print(dict(seen))
    assert wrong == []
    assert seen["unchanged"] > 2000


def loose(model: ir.Model) -> tuple[Coupling, Components]:
    """Couple the slices of a model whose interface may lose some."""
    Shapes.forget(model)
    Names.forget(model)
    found = Coupling(Places(Shapes.of(model)), Parameters(model))
    couple_nodes(model, found)
    for run_of in found.runs:
        found.join(np.tile(run_of[0], len(run_of) - 1), run_of[1:].reshape(-1))
    found.runs = []
    return found, found.solve()


def free(coupling: Coupling, components: Components) -> list[Ids]:
    """Return sets of slices that go together and may go; a few of them, of all kinds."""
    every = np.arange(coupling.places.count)
    labels = components.labels[every[~components.frozen(every)]]
    chosen: dict[tuple[int, ...], Ids] = {}
    for label in np.unique(labels).tolist():
        ids = np.flatnonzero(components.labels == label)
        chosen[tuple(np.unique(coupling.places.owner_of(ids)).tolist())] = ids
    return list(chosen.values())


def parted(array: Any, masks: Sequence[Mask | None]) -> Any:
    for axis, mask in enumerate(masks):
        if mask is not None:
            array = np.compress(mask, array, axis=axis)
    return array


def emptied(array: Any, masks: Sequence[Mask | None]) -> Any:
    array = np.array(array)
    for axis, mask in enumerate(masks):
        if mask is not None:
            np.moveaxis(array, axis, 0)[~mask] = np.zeros((), array.dtype)
    return array


def holds(proto: onnx.ModelProto, inputs: Arrays, index: int) -> bool | None:
    """Whether one set of slices can be taken out; None where ONNX Runtime does not tell."""
    model = ir.from_proto(proto)
    coupling, components = loose(model)
    ids = free(coupling, components)[index]
    removal = Removal(model, coupling)
    if any(mask_all_gone(removal, coupling, ids)):
        return None

    def masks(value: ir.Value) -> list[Mask | None]:
        rank = len(coupling.places.dims(Place(value)) or ())
        return [removal.mask(Place(value), axis) for axis in range(rank)]

    fed = [v for v in model.graph.inputs if not v.is_initializer()]
    removal.remove(ids)
    if any(mask is not None and not mask.any() for v in fed for mask in masks(v)):
        return None
    zeroed = [emptied(array, masks(v)) for v, array in zip(fed, inputs, strict=False)]
    before = run(proto, zeroed)
    if before is None:
        return None
    rest = [parted(array, masks(v)) for v, array in zip(fed, inputs, strict=False)]
    after = run(without_output_shapes(model), rest)
    want = [parted(b, masks(v)) for b, v in zip(before, model.graph.outputs, strict=True)]
    return after is not None and all(map(close, after, want))


def mask_all_gone(removal: Removal, coupling: Coupling, ids: Ids) -> Iterator[bool]:
    for owner in np.unique(coupling.places.owner_of(ids)).tolist():
        known = coupling.places.known(*coupling.places.owners[owner])
        assert known is not None
        yield bool(np.isin(known, ids).all())


def without_output_shapes(model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    for value in (*proto.graph.output, *proto.graph.value_info):
        value.type.tensor_type.ClearField("shape")
    return proto


def test_every_rule_on_every_operator() -> None:
    seen: Counter[str] = Counter()
    wrong, operators = [], set()
    for name, proto, inputs in variants():
        if len(proto.graph.node) > 8 or run(proto, inputs) is None:
            continue
        count = len(free(*loose(ir.from_proto(proto))))
        for index in range(count):
            verdict = holds(proto, inputs, index)
            seen[{True: "holds", False: "wrong", None: "not told"}[verdict]] += 1
            if verdict:
                operators |= {node.op_type for node in proto.graph.node}
            elif verdict is False:
                wrong.append(f"{name} ({index})")
    print(dict(seen), len(operators))
    assert wrong == []
    assert len(operators) > 100
    assert seen["holds"] > 1500
