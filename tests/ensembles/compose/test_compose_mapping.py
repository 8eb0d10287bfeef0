"""Inputs of members that a mapping unifies, keeps apart, or cannot unify."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from composing import (
    composed,
    faces,
    negated,
    rows,
    run,
    side_by_side,
)

from graphopt.ensembles.compose import Composition
from graphopt.errors import GraphoptError


def test_the_mapping_unifies_other_names() -> None:
    members = {"a": negated(x="image"), "b": negated(x="pixel_values")}
    ensemble = composed(members, mapping={"b.pixel_values": "image"})
    assert [value.name for value in ensemble.graph.inputs] == ["image"]
    np.testing.assert_array_equal(run(ensemble, {"image": rows(2)})["b.y"], -rows(2))


def test_the_mapping_keeps_equal_names_apart() -> None:
    ensemble = composed({"a": negated(), "b": negated()}, mapping={"b.x": "other"})
    assert [value.name for value in ensemble.graph.inputs] == ["x", "other"]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_mapping_casts_to_the_widest_float(order: str) -> None:
    members = {"a": negated(kind="float16"), "b": negated(kind="float", x="z")}
    members = {name: members[name] for name in order}
    composition = Composition(members, mapping={"a.x": "input", "b.z": "input"})

    ensemble = side_by_side(composition, *order)

    assert faces(ensemble)["input"] == "FLOAT[N,3]"
    assert any("cast to FLOAT16 for 'x' of member 'a'" in note for note in composition.notes)
    together = run(ensemble, {"input": rows(2)})
    np.testing.assert_array_equal(together["b.y"], -rows(2))
    np.testing.assert_array_equal(together["a.y"], -rows(2).astype(np.float16))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"b": "x"}, "names no input of a member"),
        ({"b.x": ""}, "names no input of a member"),
        ({"c.x": "x"}, "there is no member 'c'"),
        ({"b.xx": "x"}, "has no input 'xx'; did you mean 'x'"),
    ],
)
def test_a_mapping_of_nothing(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        Composition({"a": negated(), "b": negated()}, mapping=mapping)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (negated("N, 4", x="z"), "another shape"),
        (negated("N, 3, 1", x="z"), "another rank"),
        (negated(kind="int32", x="z"), "another type"),
    ],
)
def test_a_mapping_that_cannot_hold(other: ir.Model, why: str) -> None:
    composition = Composition({"a": negated(), "b": other}, mapping={"b.z": "x"})
    composition.input("a", "x")
    with pytest.raises(GraphoptError, match=rf"b\.z=x cannot hold.*{why}") as told:
        composition.input("b", "z")
    assert "\n" not in str(told.value)
