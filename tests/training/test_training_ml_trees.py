"""Ensembles of trees in PyTorch, beside ONNX Runtime."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from graphopt.errors import GraphoptError
from graphopt.training import OnnxModule

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")
FEATURES = 4
ATOL = {False: 1e-6, True: 2e-3}
"""PROBIT loses digits near zero: it takes the root of a difference of almost equal numbers."""


def nodes(rng: np.random.Generator, modes: tuple[str, ...], trees: int) -> dict[str, list[Any]]:
    found: list[list[Any]] = []

    def grow(tree: int, start: int, depth: int) -> int:
        place = len(found)
        found.append([])
        own = place - start
        if depth == 0 or (depth < 3 and rng.random() < 0.2):
            found[place] = [tree, own, 0, 0.25, "LEAF", 0, 0, 0]
            return own
        mode, bound = str(rng.choice(modes)), float(rng.integers(-2, 3))
        feature, missing = int(rng.integers(FEATURES)), int(rng.random() < 0.5)
        branches = [grow(tree, start, depth - 1) for _ in range(2)]
        found[place] = [tree, own, feature, bound, mode, *branches, missing]
        return own

    for tree in range(trees):
        grow(tree, len(found), 3)
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    columns = [list(column) for column in zip(*found, strict=True)]
    return {
        f"nodes_{name}": column
        for name, column in zip((*names, "missing_value_tracks_true"), columns, strict=True)
    }


def ensemble(
    kind: str,
    targets: int,
    *,
    seed: int,
    only: int | None = None,
    positive: bool = False,
    modes: tuple[str, ...] = MODES,
    trees: int = 5,
    **attributes: Any,
) -> onnx.NodeProto:
    rng = np.random.default_rng(seed)
    listed = nodes(rng, modes, trees)
    weights: list[tuple[int, int, int, float]] = []
    for tree, node, mode in zip(
        listed["nodes_treeids"], listed["nodes_nodeids"], listed["nodes_modes"], strict=True
    ):
        chosen = rng.integers(0, targets, size=2).tolist() if only is None else [only]
        for target in sorted(set(chosen)) if mode == "LEAF" else ():
            weight = float(rng.normal())
            weights.append((tree, node, target, abs(weight) / trees if positive else weight))
    names = ("treeids", "nodeids", "ids", "weights")
    for name, column in zip(names, zip(*weights, strict=True), strict=True):
        listed[f"{kind}_{name}"] = list(column)
    if kind == "class":
        attributes.setdefault("classlabels_int64s", [10 + each for each in range(targets)])
        outputs, operator = ["label", "scores"], "TreeEnsembleClassifier"
    else:
        attributes["n_targets"] = targets
        outputs, operator = ["scores"], "TreeEnsembleRegressor"
    given = {**listed, **attributes}
    return helper.make_node(operator, ["x"], outputs, domain="ai.onnx.ml", **given)


def model(
    node: onnx.NodeProto,
    columns: int,
    *,
    version: int = 3,
    kind: int = TensorProto.FLOAT,
    scores: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    types = {"label": (TensorProto.INT64, ["n"]), "scores": (scores, ["n", columns])}
    outputs = [helper.make_tensor_value_info(name, *types[name]) for name in node.output]
    inputs = [helper.make_tensor_value_info("x", kind, ["n", FEATURES])]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", version)]
    graph = helper.make_graph([node], "trees", inputs, outputs)
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def rows(dtype: Any = np.float32) -> Any:
    array = np.random.default_rng(1).integers(-3, 4, size=(40, FEATURES)).astype(dtype)
    if array.dtype.kind == "f":
        array[::5, 1] = np.nan
    return array


def expected(proto: onnx.ModelProto, array: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    outputs: list[Any] = session.run(None, {"x": array})
    return outputs


def check(
    proto: onnx.ModelProto, array: Any, *, first_score: bool = False, atol: float = 1e-6
) -> None:
    found = OnnxModule(ir.from_proto(proto))(torch.from_numpy(array))
    found = found if isinstance(found, tuple) else (found,)
    for one, other in zip(found, expected(proto, array), strict=True):
        assert one.numpy().dtype == other.dtype
        assert one.shape == other.shape
        ours, theirs = one.numpy(), other
        if first_score and other.ndim == 2:
            ours, theirs = ours[:, 0], theirs[:, 0]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_classes(classes: int, transform: str) -> None:
    bases: list[dict[str, Any]] = [{}, {"base_values": [0.2, 0.1, 0.4][:classes]}]
    for only, positive, base in itertools.product((None, 0, 1), (True, False), bases):
        if only is not None and only >= classes:
            continue
        node = ensemble(
            "class",
            classes,
            seed=3,
            only=only,
            positive=positive,
            post_transform=transform,
            **base,
        )
        # ONNX Runtime leaves the second score of one alone as it was in memory.
        probit = transform == "PROBIT"
        check(model(node, classes), rows(), first_score=probit, atol=ATOL[probit])


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 2, 3])
def test_targets(targets: int, aggregate: str) -> None:
    bases: list[dict[str, Any]] = [{}, {"base_values": [0.2, 0.1, 0.4][:targets]}]
    for only, transform, base in itertools.product((None, 0), TRANSFORMS, bases):
        given = {"post_transform": transform, "aggregate_function": aggregate, **base}
        node = ensemble("target", targets, seed=4, only=only, **given)
        check(model(node, targets), rows(), atol=ATOL[transform == "PROBIT"])


@pytest.mark.parametrize("mode", MODES)
def test_one_kind_of_comparison(mode: str) -> None:
    check(model(ensemble("target", 2, seed=5, modes=(mode,)), 2), rows())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.INT64, np.int64),
        (TensorProto.INT32, np.int32),
    ],
)
def test_other_types(kind: int, dtype: Any) -> None:
    check(model(ensemble("class", 3, seed=6), 3, kind=kind), rows(dtype))


def test_attributes_as_tensors_of_doubles() -> None:
    node = ensemble("target", 2, seed=7)
    kept = []
    for attribute in node.attribute:
        if attribute.name in ("nodes_values", "target_weights"):
            shifted = np.array(attribute.floats, np.float64) + 1e-9
            tensor = onnx.numpy_helper.from_array(shifted)
            kept.append(helper.make_attribute(f"{attribute.name}_as_tensor", tensor))
        else:
            kept.append(attribute)
    del node.attribute[:]
    node.attribute.extend(kept)
    array = rows(np.float64) + 1e-9
    check(model(node, 2, kind=TensorProto.DOUBLE, scores=TensorProto.FLOAT), array)


def five(*, members: bool, dtype: Any, **attributes: Any) -> onnx.NodeProto:
    """Make two trees of three and of one comparison; `members`: two of them are with sets."""
    tensors = {
        "nodes_splits": np.array([0.0, 1.0, -1.0, 2.0], dtype),
        "nodes_modes": np.array([0, 6, 3, 6] if members else [0, 1, 5, 4], np.uint8),
        "leaf_weights": np.array([0.5, -1.5, 2.0, 0.25, -3.0, 4.0], dtype),
        **(
            {"membership_values": np.array([1, 2, np.nan, -1, 0, np.nan], dtype)} if members else {}
        ),
    }
    if members:
        tensors["membership_values"] = np.array([1, 2, np.nan, -1, 0, np.nan], dtype)
    return helper.make_node(
        "TreeEnsemble",
        ["x"],
        ["scores"],
        domain="ai.onnx.ml",
        tree_roots=[0, 3],
        nodes_featureids=[0, 1, 2, 3],
        nodes_truenodeids=[1, 0, 2, 4],
        nodes_trueleafs=[0, 1, 1, 1],
        nodes_falsenodeids=[2, 1, 3, 5],
        nodes_falseleafs=[0, 1, 1, 1],
        nodes_missing_value_tracks_true=[1, 0, 1, 1],
        leaf_targetids=[0, 1, 1, 0, 1, 0],
        n_targets=2,
        **{name: onnx.numpy_helper.from_array(tensor) for name, tensor in tensors.items()},
        **attributes,
    )


@pytest.mark.parametrize("aggregate", range(4))
@pytest.mark.parametrize("members", [False, True])
def test_the_newest_kind_of_ensemble(aggregate: int, *, members: bool) -> None:
    for transform in range(5):
        node = five(
            members=members,
            dtype=np.float32,
            aggregate_function=aggregate,
            post_transform=transform,
        )
        check(model(node, 2, version=5), rows(), atol=ATOL[transform == 4])


def test_the_newest_kind_of_ensemble_of_doubles() -> None:
    node = five(members=False, dtype=np.float64)
    proto = model(node, 2, version=5, kind=TensorProto.DOUBLE, scores=TensorProto.DOUBLE)
    check(proto, rows(np.float64))


def test_strings_as_labels_are_refused() -> None:
    node = ensemble("class", 2, seed=8)
    places = {attribute.name: place for place, attribute in enumerate(node.attribute)}
    del node.attribute[places["classlabels_int64s"]]
    node.attribute.append(helper.make_attribute("classlabels_strings", ["a", "b"]))
    proto = model(node, 2)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(GraphoptError, match="labels are strings"):
        OnnxModule(ir.from_proto(proto))(torch.from_numpy(rows()))
    scores = expected(proto, rows())[1]
    del proto.graph.output[0]
    node.output[0] = ""
    proto.graph.node[0].output[0] = ""
    np.testing.assert_allclose(
        OnnxModule(ir.from_proto(proto))(torch.from_numpy(rows())), scores, rtol=1e-5, atol=1e-6
    )


def test_a_cycle_is_refused() -> None:
    node = ensemble("target", 1, seed=9, trees=1)
    for attribute in node.attribute:
        if attribute.name == "nodes_falsenodeids":
            inner = next(place for place, end in enumerate(attribute.ints) if place and end)
            attribute.ints[inner] = 0
    with pytest.raises(GraphoptError, match="form a cycle"):
        OnnxModule(ir.from_proto(model(node, 1)))(torch.from_numpy(rows()))


def test_it_is_exported_for_any_number_of_rows() -> None:
    proto = model(ensemble("class", 3, seed=10), 3)
    module = OnnxModule(ir.from_proto(proto))
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(module, (torch.from_numpy(rows()),), dynamic_shapes=(dynamic,))
    for count in (2, 17):
        found = program.module()(torch.from_numpy(rows()[:count]))
        for one, other in zip(found, expected(proto, rows()[:count]), strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-6)


def test_scores_may_be_read_by_other_operators() -> None:
    node = ensemble("target", 2, seed=11)
    proto = model(node, 2)
    scores = proto.graph.node[0].output
    scores[0] = "inner"
    proto.graph.node.append(helper.make_node("Identity", ["inner"], ["scores"]))
    check(proto, rows())
