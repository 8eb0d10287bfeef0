"""How the tests of structured pruning run the pass, and what its result has to equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from before_after import Array, feeds_for, model_of, session

import passes.prune
from graphopt.model.scopes import scopes
from graphopt.pipeline.contract import Context, Declined, Rewrite
from graphopt.rewrite.constants import held, hold
from graphopt.rewrite.weights import Weight, weights
from passes.prune import Prune
from passes.prune.places import Ids
from passes.prune.removal import Removal

Gone = dict[tuple[str, int], set[int]]
"""The indices that went, by the name of a tensor and its axis."""


def drawn(text: str, seed: int = 0, **shapes: tuple[int, ...]) -> ir.Model:
    """Parse a model and give it weights; those whose name begins with `v` are positive."""
    model = model_of(text)
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        numbers = rng.standard_normal(shape)
        array = (np.abs(numbers) + 0.5 if name[0] == "v" else numbers).astype(np.float32)
        tensor = ir.tensor(array, name=name)
        old = next(v for v in _read(model) if v.name == name)
        old.const_value, old.type, old.shape = tensor, ir.TensorType(tensor.dtype), tensor.shape
        model.graph.register_initializer(old)
    return model


def _read(model: ir.Model) -> list[ir.Value]:
    return [v for scope in scopes(model) for node in scope.graph for v in node.inputs if v]


def run(model: ir.Model, **parameters: Any) -> tuple[list[Rewrite], dict[str, str], Gone]:
    """Apply the pass; return its rewrites, its declines, and what went."""
    rewrites, declined, gone = [], {}, Gone()

    class Recorded(Removal):
        def remove(self, ids: Ids) -> None:
            for one in ids.tolist():
                place, axis = self._places.owners[int(self._places.owner_of(np.array(one)))]
                known = self._places.known(place, axis)
                assert known is not None
                index = one - int(known[0])
                gone.setdefault((place.value.name or "", axis), set()).add(index)
            super().remove(ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes.prune, "Removal", Recorded)
        for one in Prune(**parameters).rewrites(model, Context()):
            if isinstance(one, Rewrite):
                one.apply()
                rewrites.append(one)
                onnx.checker.check_model(ir.to_proto(model), full_check=True)
            elif isinstance(one, Declined):
                declined[one.at] = one.why
    return rewrites, declined, gone


def masked(model: ir.Model, gone: Gone, zero: Mapping[str, int] | None = None) -> None:
    """Zero what reads the channels that went, and leave all sizes as they are.

    Args:
        model: What is edited.
        gone: What went.
        zero: Axes of further constants that are zeroed.
    """
    further = dict(zero or {})
    for weight in weights(model):
        if not isinstance(weight, Weight):
            continue
        for use in weight.uses:
            if use.axes.input is not None:
                groups = 1 if use.slot.activation is None else use.slot.activation.groups
                _zero(weight.value, use.axes.input, gone, groups)
    for value in model.graph.initializers.values():
        if value.name in further:
            _zero(value, further[value.name], gone, 1)


def _zero(value: ir.Value, axis: int, gone: Gone, groups: int) -> None:
    indices = sorted(gone.get((value.name or "", axis), set()))
    tensor = held(value)
    if not indices or tensor is None:
        return
    array = tensor.numpy().copy()
    if groups > 1 and max(indices) >= array.shape[axis]:
        runs = array.reshape(groups, -1, *array.shape[1:])
        for index in indices:
            runs[index // array.shape[1], :, index % array.shape[1]] = 0
    else:
        np.moveaxis(array, axis, 0)[indices] = 0
    hold(value, ir.tensor(array, name=value.name))


def check(
    model: ir.Model,
    feeds: Mapping[str, Array] | None = None,
    zero: Mapping[str, int] | None = None,
    **parameters: Any,
) -> tuple[ir.Model, list[Rewrite], dict[str, str]]:
    """Assert that a pruned model computes what the model does whose lost channels are not read."""
    pruned, reference = model.clone(), model.clone()
    rewrites, declined, gone = run(pruned, **parameters)
    masked(reference, gone, zero)
    fed = feeds_for(ir.to_proto(model)) if feeds is None else feeds
    for want, got in zip(
        session(ir.to_proto(reference)).run(None, fed),
        session(ir.to_proto(pruned)).run(None, fed),
        strict=True,
    ):
        assert np.isfinite(want).all()
        assert want.dtype == got.dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1e-3, np.abs(want).max()))
    return pruned, rewrites, declined


def shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the constants in all scopes."""
    return {
        name: tuple(int(size) for size in value.const_value.shape.numpy())
        for scope in scopes(model)
        for name, value in scope.graph.initializers.items()
        if value.const_value is not None
    }
