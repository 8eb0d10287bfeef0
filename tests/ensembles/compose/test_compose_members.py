"""Members of other versions, domains and metadata stand in one model."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from composing import (
    DIGITS,
    FIXTURES,
    calls,
    composed,
    digits,
    linear,
    names_are_unique,
    rows,
    run,
    text,
)

from graphopt.ensembles.compose import Composition
from graphopt.errors import GraphoptError
from graphopt.model import load, save, to_proto
from graphopt.pipeline import manager
from graphopt.pipeline.snapshot import snapshot, structure
from passes.cleanup import Cleanup


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.load(FIXTURES / "digits_test.npz")["image"][:7]


def test_digits_models_of_all_architectures_compute_what_they_did(image: np.ndarray) -> None:
    ensemble = composed({name: digits(name) for name in DIGITS})

    together = run(ensemble, {"image": image})

    assert [value.name for value in ensemble.graph.inputs] == ["image"]
    for name in DIGITS:
        np.testing.assert_array_equal(
            together[f"{name}.logits"], run(digits(name), {"image": image})["logits"]
        )


@pytest.mark.parametrize(("low", "high"), [(7, 11), (9, 13), (11, 17), (13, 20), (11, 22)])
def test_members_are_raised_to_the_highest_opset(low: int, high: int) -> None:
    members = {"a": linear(low), "b": linear(high)}
    composition = Composition(members)

    ensemble = composed(members)

    assert composition.opset == ensemble.opset_imports[""] == max(high, 13)
    feeds = {"x": rows(5)}
    for name, member in members.items():
        np.testing.assert_allclose(
            run(ensemble, feeds)[f"{name}.y"], run(member, feeds)["y"], rtol=1e-6
        )


def older(name: str, opset: int) -> ir.Model:
    """Write a digits model in an older opset: folded, then respelled where it differs."""
    model = manager.run(digits(name), [Cleanup()]).model
    model.opset_imports[""] = opset
    for node in model.graph:
        node.attributes.pop("allowzero", None)
        if node.op_type == "ReduceMean" and opset < 18:
            axes = node.inputs[1]
            assert axes is not None
            assert axes.const_value is not None
            node.attributes.add(ir.AttrInt64s("axes", axes.const_value.numpy().tolist()))
            node.attributes.pop("noop_with_empty_axes", None)
            node.resize_inputs(1)
    onnx.checker.check_model(to_proto(model), full_check=True)
    return model


@pytest.mark.parametrize("opsets", [(11, 13, 17, 20), (20, 17, 13, 11), (13, 11, 11, 17)])
def test_digits_models_at_four_opsets(opsets: tuple[int, ...], image: np.ndarray) -> None:
    members = {name: older(name, opset) for name, opset in zip(DIGITS, opsets, strict=True)}

    ensemble = composed(members)

    assert ensemble.opset_imports[""] == max(opsets)
    for name, logits in run(ensemble, {"image": image}).items():
        alone = run(digits(name.removesuffix(".logits")), {"image": image})["logits"]
        np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-4)


def test_weights_of_one_name_are_kept_apart() -> None:
    """Say, the mean and the scale that two exporters preprocess with."""
    members = {"a": linear(13), "b": linear(13)}
    members["b"].graph.initializers["w"].const_value = ir.tensor(np.float32([9, 8, 7]))
    together = run(composed(members), {"x": rows(4)})
    for name, member in members.items():
        np.testing.assert_array_equal(together[f"{name}.y"], run(member, {"x": rows(4)})["y"])


def test_the_ir_version_is_the_highest() -> None:
    assert composed({"a": linear(13, 7), "b": linear(13, 9)}).ir_version == 9


def test_members_stay_as_they_are() -> None:
    members = {name: digits(name) for name in DIGITS} | {"old": linear(9)}
    members["old"].graph.inputs[0].name = "other"
    before = {name: (structure(model), to_proto(model)) for name, model in members.items()}

    composed(members)

    for name, model in members.items():
        assert structure(model) == before[name][0]
        assert to_proto(model) == before[name][1]


def test_what_cannot_be_raised_names_member_and_operator() -> None:
    old = text(
        '<ir_version: 3, opset_import: ["" : 8]>'
        " g (float[2, 4, 3] x) => (float[3] s, float[2, 4, 3] y) <float[3] z = {0, 0, 0}> {"
        " s, y = Scan <num_scan_inputs = 1, body = b (float[3] a, float[3] i) =>"
        " (float[3] c, float[3] o) { c = Add (a, i)  o = Identity (c) }> (, z, x) }"
    )
    with pytest.raises(GraphoptError, match=r"member 'old'.*opset 17.*Scan 's'.*export") as told:
        Composition({"new": linear(17), "old": old})
    assert "\n" not in str(told.value)


def ml(version: int, nodes: str, outputs: str = "float[N, 3] y") -> ir.Model:
    return text(
        f'<ir_version: 8, opset_import: ["" : 13, "ai.onnx.ml" : {version}]>'
        f" g (float[N, 3] x) => ({outputs}) {{ {nodes} }}"
    )


SCALER = "y = ai.onnx.ml.Scaler <offset = [1.0], scale = [2.0]> (x)"


def test_other_domains_take_the_highest_version_that_all_operators_have() -> None:
    ensemble = composed({"a": ml(1, SCALER), "b": ml(3, SCALER)})
    assert ensemble.opset_imports["ai.onnx.ml"] == 3
    np.testing.assert_array_equal(run(ensemble, {"x": rows(2)})["a.y"], (rows(2) - 1) * 2)


LABELS = 'l = Cast <to = 7> (x) y = ai.onnx.ml.LabelEncoder <classes_strings = ["p", "q"]> (l)'
NEWER = (
    "l = Cast <to = 7> (x)"
    'y = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_strings = ["p", "q"]> (l)'
)


def test_label_encoders_of_the_first_version_are_written_anew() -> None:
    members = {"old": ml(1, LABELS, "string[N, 3] y"), "new": ml(2, NEWER, "string[N, 3] y")}
    x = np.array([[0, 1, 7]], np.float32)
    together = run(composed(members), {"x": x})
    assert together["old.y"].tolist() == run(members["old"], {"x": x})["y"].tolist()
    assert together["new.y"].tolist() == run(members["new"], {"x": x})["y"].tolist()


def test_label_encoders_of_the_first_version_that_read_strings() -> None:
    old = text(
        '<ir_version: 8, opset_import: ["" : 13, "ai.onnx.ml" : 1]> g (string[N] s) => (int64[N] y)'
        '{ y = ai.onnx.ml.LabelEncoder <classes_strings = ["p", "q"], default_int64 = -5> (s) }'
    )
    together = run(
        composed({"old": old, "new": ml(2, NEWER, "string[N, 3] y")}),
        {"s": np.array(["q", "?", "p"]), "x": rows(1)},
    )
    assert together["old.y"].tolist() == [1, -5, 0]


TREES = (
    "l, y = ai.onnx.ml.TreeEnsembleClassifier <nodes_treeids = [0], nodes_nodeids = [0],"
    ' nodes_featureids = [0], nodes_modes = ["LEAF"], nodes_values = [0.0],'
    " nodes_truenodeids = [0], nodes_falsenodeids = [0], class_treeids = [0], class_nodeids = [0],"
    " class_ids = [0], class_weights = [1.0], classlabels_int64s = [0, 1]> (x)"
)
NEWEST = (
    "y = ai.onnx.ml.TreeEnsemble <n_targets = 1, tree_roots = [0], nodes_featureids = [0],"
    " nodes_modes = uint8[1] {0}, nodes_splits = float[1] {0.5}, nodes_truenodeids = [0],"
    " nodes_trueleafs = [1], nodes_falsenodeids = [0], nodes_falseleafs = [1],"
    " leaf_targetids = [0], leaf_weights = float[1] {1.0}> (x)"
)


def test_a_conflict_in_a_domain_names_member_operator_and_versions() -> None:
    members = {"old": ml(3, TREES, "float[N, 2] y"), "new": ml(5, NEWEST, "float[N, 1] y")}
    with pytest.raises(
        GraphoptError,
        match=r"'old': TreeEnsembleClassifier 'l' of ai\.onnx\.ml 3.*\.ml 5.*is gone; export",
    ) as told:
        Composition(members)
    assert "\n" not in str(told.value)


def test_a_domain_that_one_member_imports_in_vain_is_no_conflict() -> None:
    trees = ml(3, TREES, "float[N, 2] y")
    ensemble = composed({"old": trees, "new": ml(5, SCALER)})
    assert ensemble.opset_imports["ai.onnx.ml"] == 3


def custom(version: int) -> ir.Model:
    return text(
        f'<ir_version: 8, opset_import: ["" : 13, "my.ops" : {version}]>'
        " g (float[N, 3] x) => (float[N, 3] y) { y = my.ops.Magic (x) }"
    )


def test_versions_of_unknown_operators_must_be_equal() -> None:
    assert composed({"a": custom(2), "b": custom(2)}).opset_imports["my.ops"] == 2
    with pytest.raises(
        GraphoptError, match=r"member 'a': Magic 'y' of my\.ops 1 .* my\.ops 2.*not known; export"
    ):
        Composition({"a": custom(1), "b": custom(2)})


def test_operators_of_the_runtime_stay() -> None:
    gelu = text(
        '<ir_version: 8, opset_import: ["" : 14, "com.microsoft" : 1]>'
        " g (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.Gelu (x) }"
    )
    ensemble = composed({"a": gelu, "b": linear(17)})
    np.testing.assert_array_equal(
        run(ensemble, {"x": rows(4)})["a.y"], run(gelu, {"x": rows(4)})["y"]
    )


def test_metadata_are_kept_under_the_member() -> None:
    members = {"a": linear(13), "b": linear(13)}
    for name, member in members.items():
        member.metadata_props["license"] = f"of {name}"
        member.metadata_props["graphopt.pipeline"] = "cleanup"
        member.graph.metadata_props["source"] = name
        member.graph[0].metadata_props["line"] = "7"
    members["a"].doc_string = "what a does"

    ensemble = composed(members)

    assert ensemble.metadata_props == {
        "a/license": "of a",
        "a/graphopt.pipeline": "cleanup",
        "a/doc_string": "what a does",
        "b/license": "of b",
        "b/graphopt.pipeline": "cleanup",
    }
    assert ensemble.graph.metadata_props == {"a/source": "a", "b/source": "b"}
    assert ensemble.graph[0].metadata_props == {"line": "7"}


def test_the_recipe_of_a_member_is_not_that_of_the_ensemble() -> None:
    from graphopt.pipeline.recipe import read_recipe

    member = linear(13)
    member.metadata_props.update({"graphopt.pipeline": "cleanup", "graphopt.version": "1"})
    assert read_recipe(composed({"graphopt": member})) is None


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "1a", "a b"])
def test_names_of_members_are_identifiers(name: str) -> None:
    with pytest.raises(GraphoptError, match="cannot be the name of a member"):
        Composition({name: linear(13)})


def test_no_members_are_no_ensemble() -> None:
    with pytest.raises(GraphoptError, match="needs a member"):
        Composition({})


def test_an_unknown_member_names_the_nearest() -> None:
    with pytest.raises(GraphoptError, match="did you mean 'resnet'"):
        Composition({"resnet": linear(13)}).signature("resnte")


def test_a_member_that_reads_what_nothing_provides() -> None:
    broken = linear(13)
    broken.graph[0].replace_input_with(1, ir.Value(name="ghost"))
    with pytest.raises(GraphoptError, match=r"member 'a'.*'ghost', which nothing provides"):
        Composition({"a": broken})


def test_members_whose_nodes_are_out_of_order() -> None:
    member = linear(13)
    first = member.graph[0]
    member.graph.remove(first)
    member.graph.append(first)
    result = run(composed({"a": member}), {"x": rows(2)})
    np.testing.assert_array_equal(result["a.y"], run(linear(13), {"x": rows(2)})["y"])


def test_ensembles_of_one_kind_are_the_same_bytes_each_time() -> None:
    def content() -> bytes:
        members = {name: digits(name) for name in DIGITS} | {"f": calls("Exp")}
        return to_proto(composed(members)).SerializeToString()

    assert content() == content()


def test_fifty_members() -> None:
    members = {f"m{index}": linear(11 + index % 7) for index in range(50)}
    ensemble = composed(members)
    assert len(ensemble.graph.outputs) == 50
    assert len(ensemble.graph.inputs) == 1
    assert names_are_unique(ensemble)
    expected = run(members["m0"], {"x": rows(3)})["y"]
    for value in run(ensemble, {"x": rows(3)}).values():
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_an_ensemble_can_be_a_member(tmp_path) -> None:  # type: ignore[no-untyped-def]
    inner = composed({"a": linear(13), "b": calls("Sin")})
    save(inner, tmp_path / "inner.onnx")
    outer = composed({"a": load(tmp_path / "inner.onnx"), "b": calls("Exp")})
    together = run(outer, {"x": rows(3)})
    np.testing.assert_array_equal(together["a.b.y"], run(calls("Sin"), {"x": rows(3)})["y"])
    assert names_are_unique(outer)
    assert structure(snapshot(outer)) is not None
