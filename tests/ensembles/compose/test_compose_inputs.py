"""Inputs of members become inputs of the ensemble: unified, mapped, or on their own and told."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from composing import (
    bindings,
    composed,
    faces,
    names_are_unique,
    negated,
    rows,
    run,
    side_by_side,
    text,
)

from graphopt.ensembles.compose import Composition
from graphopt.errors import GraphoptError
from graphopt.model import to_proto


def test_dynamic_dims_unify_with_any_name() -> None:
    ensemble = composed({"a": negated("N, 3"), "b": negated("batch, 3"), "c": negated("?, 3")})
    assert faces(ensemble) == {
        "x": "FLOAT[N,3]",
        "a.y": "FLOAT[N,3]",
        "b.y": "FLOAT[N,3]",
        "c.y": "FLOAT[None,3]",
    }


def test_a_negative_size_is_an_unknown_one() -> None:
    unknown = negated("N, 3")
    unknown.graph.inputs[0].shape = ir.Shape([-1, 3])
    unknown.graph.outputs[0].shape = ir.Shape([-1, 3])
    ensemble = composed({"a": unknown, "b": negated("batch, 3")})
    assert faces(ensemble) == {
        "x": "FLOAT[batch,3]",
        "a.y": "FLOAT[None,3]",
        "b.y": "FLOAT[batch,3]",
    }


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_fixed_dim_fixes_the_input_and_says_so(order: str) -> None:
    members = {"a": negated("N, 3"), "b": negated("1, 3")}
    composition = Composition({name: members[name] for name in order})

    ensemble = side_by_side(composition, *order)

    assert set(faces(ensemble).values()) == {"FLOAT[1,3]"}
    assert composition.notes == ["dim 0 of input 'x' is fixed to 1: member 'b' takes no other"]


def test_dims_that_a_fixed_one_reaches_are_fixed_everywhere() -> None:
    two = text(
        '<ir_version: 8, opset_import: ["" : 13]>'
        " g (float[N, 3] x, float[N, 2] z) => (float[N, 5] y) { y = Concat <axis = 1> (x, z) }"
    )
    ensemble = composed({"a": two, "b": negated("4, 3")})
    assert faces(ensemble)["z"] == "FLOAT[4,2]"
    assert faces(ensemble)["a.y"] == "FLOAT[4,5]"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (negated("N, 4"), "another shape"),
        (negated("N, 3, 1"), "another rank"),
        (negated(kind="double"), "another type"),
    ],
)
def test_what_does_not_agree_stays_on_its_own(other: ir.Model, why: str) -> None:
    composition = Composition({"a": negated(), "b": other})

    ensemble = side_by_side(composition, "a", "b")

    assert [value.name for value in ensemble.graph.inputs] == ["x", "b/x"]
    assert len(composition.notes) == 1
    assert "'x' of member 'b'" in composition.notes[0]
    assert why in composition.notes[0]


def test_equal_symbols_of_different_members_claim_nothing() -> None:
    ensemble = composed({"a": negated("N, 3", x="p"), "b": negated("N, 3", x="q")})
    assert faces(ensemble) == {
        "p": "FLOAT[N,3]",
        "q": "FLOAT[b_N,3]",
        "a.y": "FLOAT[N,3]",
        "b.y": "FLOAT[b_N,3]",
    }
    together = run(ensemble, {"p": rows(2), "q": rows(5)})
    assert together["b.y"].shape == (5, 3)


def test_a_symbol_that_is_called_like_another_members_prefixed_one() -> None:
    ensemble = composed(
        {"a": negated("b_N, 3", x="p"), "b": negated("N, 3", x="q"), "c": negated("N, 3", x="r")}
    )
    symbols = [str(value.shape[0]) for value in ensemble.graph.inputs if value.shape is not None]
    assert len(set(symbols)) == 3


def padded(x: str = "x") -> ir.Model:
    model = text(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3] {x}) => (float[M, 3] y)'
        f"<int64[4] p = {{1, 0, 0, 0}}> {{ y = Pad ({x}, p) }}"
    )
    model.graph.outputs[0].shape = ir.Shape(["N + 1", 3])
    return model


def test_computed_symbols_are_written_in_the_final_names() -> None:
    ensemble = composed({"a": negated("batch, 3"), "b": padded(), "c": padded("z")})
    assert faces(ensemble) == {
        "x": "FLOAT[batch,3]",
        "a.y": "FLOAT[batch,3]",
        "b.y": "FLOAT[batch + 1,3]",
        "z": "FLOAT[N,3]",
        "c.y": "FLOAT[N + 1,3]",
    }


def test_computed_symbols_of_what_is_fixed_are_unknown() -> None:
    ensemble = composed({"a": negated("4, 3"), "b": padded()})
    assert faces(ensemble)["b.y"] == "FLOAT[None,3]"
    assert run(ensemble, {"x": rows(4)})["b.y"].shape == (5, 3)


def test_an_input_called_like_a_value_inside() -> None:
    members = {"a": negated(x='"b/y"'), "b": negated(), "c": negated(x='"a/y"')}
    ensemble = composed(members)
    assert [value.name for value in ensemble.graph.inputs] == ["b/y", "x", "a/y"]
    assert names_are_unique(ensemble)


def test_an_own_input_called_like_another_members() -> None:
    members = {"a": negated(), "b": negated("N, 4"), "c": negated("N, 5", x='"b/x"')}
    composition = Composition(members)
    ensemble = side_by_side(composition, "a", "b", "c")
    assert names_are_unique(ensemble)
    assert len(ensemble.graph.inputs) == 3
    assert any("'b/x'" in note for note in composition.notes)
    feeds = dict(
        zip(
            (value.name for value in ensemble.graph.inputs),
            map(rows, (2,) * 3, (3, 4, 5)),
            strict=True,
        )
    )
    assert [value.shape for value in run(ensemble, feeds).values()] == [(2, 3), (2, 4), (2, 5)]


DEFAULT = """
<ir_version: {ir}, opset_import: ["" : 13]>
g (float[N, 3] x, float[3] scale) => (float[N, 3] y) <float[3] scale = {{2, 2, 2}}>
{{ y = Mul (x, scale) }}
"""


def test_a_default_can_still_be_overridden() -> None:
    composition = Composition({"a": text(DEFAULT.format(ir=8)), "b": negated()})
    assert [port.name for port in composition.signature("a").inputs] == ["x"]
    assert [port.name for port in composition.signature("a").defaults] == ["scale"]

    ensemble = side_by_side(composition, "a", "b")

    assert [value.name for value in ensemble.graph.inputs] == ["x", "a/scale"]
    np.testing.assert_array_equal(run(ensemble, {"x": rows(2)})["a.y"], rows(2) * 2)
    scale = np.array([1, 2, 3], np.float32)
    session = onnxruntime.InferenceSession(to_proto(ensemble).SerializeToString())
    overridden = session.run(["a.y"], {"x": rows(2), "a/scale": scale})[0]
    np.testing.assert_array_equal(overridden, rows(2) * scale)
    assert any("'a/scale'" in note for note in composition.notes)


def test_a_default_can_be_bound_and_mapped() -> None:
    members = {"a": text(DEFAULT.format(ir=8)), "b": negated("3")}
    composition = Composition(members, mapping={"a.scale": "x", "a.x": "rows", "b.x": "x"})
    ensemble = side_by_side(composition, "a", "b")
    assert [value.name for value in ensemble.graph.inputs] == ["rows", "x"]
    scale = np.array([1, 2, 3], np.float32)
    together = run(ensemble, {"rows": rows(2), "x": scale})
    np.testing.assert_array_equal(together["a.y"], rows(2) * scale)


def test_weights_of_the_first_ir_versions_are_no_inputs() -> None:
    ensemble = composed({"a": text(DEFAULT.format(ir=3))})
    assert [value.name for value in ensemble.graph.inputs] == ["x"]


def test_an_output_that_is_an_input() -> None:
    passing = text(
        '<ir_version: 8, opset_import: ["" : 13]>'
        " g (float[N, 3] x) => (float[N, 3] x, float[N, 3] y) { y = Neg (x) }"
    )
    composition = Composition({"a": passing})
    placed = composition.place("a", bindings(composition, "a"), composition.model.graph)
    alone = run(composition.finish(placed), {"x": rows(2)})
    assert list(alone) == ["x", "y"]
    np.testing.assert_array_equal(alone["x"], rows(2))
    assert composition.notes == []
    together = run(composed({"a": passing, "b": passing}), {"x": rows(2)})
    assert list(together) == ["a.x", "a.y", "b.x", "b.y"]
    np.testing.assert_array_equal(together["b.x"], rows(2))


def test_an_output_called_like_an_input_gives_way() -> None:
    composition = Composition({"a": negated(), "b": negated(x="y", y="x")})
    graph = composition.model.graph
    middle = composition.place("a", bindings(composition, "a"), graph)

    ensemble = composition.finish(composition.place("b", {"y": middle["y"]}, graph))

    assert list(run(ensemble, {"x": rows(2)})) == ["x_output"]
    assert composition.notes == ["the output 'x' is called 'x_output': an input has that name"]


def test_a_member_without_inputs() -> None:
    constant = text(
        '<ir_version: 8, opset_import: ["" : 13]> g () => (float[2] y, float[2] w)'
        "<float[2] w = {1, 2}> { y = Neg (w) }"
    )
    together = run(composed({"a": constant, "b": negated()}), {"x": rows(1)})
    np.testing.assert_array_equal(together["a.y"], [-1, -2])
    np.testing.assert_array_equal(together["a.w"], [1, 2])


def test_an_input_that_a_member_does_not_read_stays() -> None:
    ignoring = text(
        '<ir_version: 8, opset_import: ["" : 13]>'
        " g (float[N, 3] x, int64[N] ids) => (float[N, 3] y) { y = Neg (x) }"
    )
    assert [value.name for value in composed({"a": ignoring}).graph.inputs] == ["x", "ids"]


def test_inputs_that_only_dropped_nodes_read_go() -> None:
    composition = Composition({"a": negated(), "b": negated(x="z")})
    graph = composition.model.graph
    placed = [composition.place(name, bindings(composition, name), graph) for name in "ab"]
    ensemble = composition.finish({"y": placed[1]["y"]})
    assert [value.name for value in ensemble.graph.inputs] == ["z"]
    assert len(ensemble.graph) == 1


def test_strings_sequences_and_optionals() -> None:
    strings = text(
        '<ir_version: 8, opset_import: ["" : 13, "ai.onnx.ml" : 2]>'
        " g (string[N] s) => (int64[N] y) {"
        ' y = ai.onnx.ml.LabelEncoder <keys_strings = ["p", "q"], values_int64s = [3, 4]> (s) }'
    )
    sequence = text(
        '<ir_version: 8, opset_import: ["" : 13]> g (seq(float[N, 3]) s) => (float[N, 3] y)'
        "<int64 i = {1}> { y = SequenceAt (s, i) }"
    )
    optional = text(
        '<ir_version: 8, opset_import: ["" : 18]> g (optional(float[N, 3]) o) => (bool y)'
        "{ y = OptionalHasElement (o) }"
    )
    members = {"a": strings, "b": sequence, "c": strings, "d": sequence, "e": optional}
    composition = Composition(members)

    ensemble = side_by_side(composition, *members)

    kinds = {value.name: value.type.WhichOneof("value") for value in to_proto(ensemble).graph.input}
    assert kinds == {
        "s": "tensor_type",
        "b/s": "sequence_type",
        "o": "optional_type",
    }
    session = onnxruntime.InferenceSession(to_proto(ensemble).SerializeToString())
    feeds = {"s": np.array(["q", "p"]), "b/s": [rows(2), -rows(2)], "o": rows(1)}
    together = session.run(None, feeds)
    assert together[0].tolist() == together[2].tolist() == [4, 3]
    np.testing.assert_array_equal(together[1], -rows(2))


def test_members_that_agree_with_each_other_share_what_the_first_cannot() -> None:
    members = {"a": negated(), "b": negated("N, 4"), "c": negated("N, 4"), "d": negated()}
    ensemble = composed(members)
    assert [value.name for value in ensemble.graph.inputs] == ["x", "b/x"]


def test_bindings_must_be_the_inputs() -> None:
    composition = Composition({"a": negated()})
    value = composition.input("a", "x")
    with pytest.raises(GraphoptError, match="input 'x' of member 'a' is fed by nothing"):
        composition.place("a", {}, composition.model.graph)
    with pytest.raises(GraphoptError, match="member 'a' has no input 'xx'; did you mean 'x'"):
        composition.place("a", {"xx": value}, composition.model.graph)
    with pytest.raises(GraphoptError, match="no input 'z'"):
        composition.input("a", "z")


def impossible(composition: Composition) -> dict[str, ir.Value]:
    value = ir.Value(name="z", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None, 3]))
    node = ir.Node("", "NoSuchOperator", [composition.input("a", "x")], outputs=[value])
    composition.model.graph.append(node)
    return {"z": value}


def test_what_the_checker_refuses_is_refused() -> None:
    composition = Composition({"a": negated()})
    with pytest.raises(GraphoptError, match=r"onnx\.checker refuses the ensemble.*NoSuchOperator"):
        composition.finish(impossible(composition))


def test_what_the_checker_refuses_of_a_member_is_told() -> None:
    # Of an operator that ONNX does not know, no shape follows.
    refused = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]>
        m (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.SampleOp(x) }"""
    )
    refused.graph.outputs[0].shape = None
    composition = Composition({"a": negated(), "b": refused})
    composition.finish(impossible(composition))
    assert len(composition.notes) == 1
    assert composition.notes[0].startswith("onnx.checker refuses member 'b' (no type or shape is")
    assert "of its output 'y'), and the ensemble:" in composition.notes[0]


def test_types_and_shapes_that_follow_are_given_to_outputs_that_declare_none() -> None:
    member = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 13]>
        m (float[N, 3] x, float[M, 3] z) => (float[N, 3] y, float[K, 3] w) {
            y = Neg(x)
            w = Concat<axis = 0>(x, z)
        }"""
    )
    for output in member.graph.outputs:
        output.type = output.shape = None
    outputs = Composition({"a": member}).signature("a").outputs
    assert [output.dtype for output in outputs] == [ir.DataType.FLOAT] * 2
    # The sum of N and M is no symbol of the member's.
    assert [str(output.shape) for output in outputs] == ["[N,3]", "[None,3]"]
    assert all(output.shape is None for output in member.graph.outputs)


def test_no_outputs_are_no_ensemble() -> None:
    with pytest.raises(GraphoptError, match="has no output"):
        Composition({"a": negated()}).finish({})
