"""Decision trees and forests: missing values and several targets as scikit-learn has them.

skl2onnx forgets where missing values go, and rounds the thresholds of trees of several targets to
the nearest float32 on either side.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.convert.boosting.trees import Trees, write_label
from graphopt.convert.sklearn.converters import ContainerNodes, in_type_of, several_targets
from graphopt.convert.sklearn.override import override
from graphopt.runtime.difference import Doubles
from graphopt.runtime.feeds import Array

_CLASSIFIERS = (
    "DecisionTreeClassifier",
    "ExtraTreeClassifier",
    "ExtraTreesClassifier",
    "RandomForestClassifier",
)
_REGRESSORS = (
    "DecisionTreeRegressor",
    "ExtraTreeRegressor",
    "ExtraTreesRegressor",
    "RandomForestRegressor",
)


@functools.cache
def register_trees() -> None:
    """Let skl2onnx write trees and forests, but for their paths, which it writes as before."""
    for names, write, outputs in ((_CLASSIFIERS, _classifier, 2), (_REGRESSORS, _regressor, 1)):
        for name in names:
            override(f"Sklearn{name}", functools.partial(_has_outputs, outputs), write)
    override("SklearnIsolationForest", functools.partial(_has_outputs, 2), _isolation_forest)


def _has_outputs(count: int, operator: Any) -> bool:
    return len(operator.outputs) == count


def _classifier(scope: Any, operator: Any, container: Any) -> None:
    model, nodes = operator.raw_operator, ContainerNodes(scope, container)
    several = model.n_outputs_ > 1
    classes = [np.asarray(own) for own in (model.classes_ if several else [model.classes_])]
    sums = _sums(nodes, operator, [len(own) for own in classes], normalised=True)
    parts = [sums]
    if several:
        sizes = nodes.constant(np.array([len(own) for own in classes], np.int64))
        parts = nodes.nodes("Split", [sums, sizes], len(classes), axis=1)
    if several:
        several_targets(nodes, operator, parts, classes)
        return
    nodes.into(operator.outputs[0].full_name, "Identity", [write_label(nodes, sums, classes[0])])
    in_type_of(nodes, sums, operator.outputs[1])


def _regressor(scope: Any, operator: Any, container: Any) -> None:
    nodes = ContainerNodes(scope, container)
    sums = _sums(nodes, operator, [1] * operator.raw_operator.n_outputs_, normalised=False)
    in_type_of(nodes, sums, operator.outputs[0])


def _sums(nodes: ContainerNodes, operator: Any, sizes: list[int], *, normalised: bool) -> str:
    """Write the mean over all trees: the values of all targets beside each other, float32.

    Args:
        nodes: Where to.
        operator: Of a tree or a forest.
        sizes: How many values each target has.
        normalised: Whether the values of a target are shares of samples, which add up to 1.
    """
    model = operator.raw_operator
    # Trees of scikit-learn compare features in float32.
    features = nodes.node("Cast", [operator.inputs[0].full_name], to=1)
    trees = Trees(sum(sizes))
    grown = [inner.tree_ for inner in getattr(model, "estimators_", [model])]
    for tree in grown:
        _add_tree(trees, tree, _leaf_values(tree, sizes, normalised) / len(grown))
        trees.end()
    return trees.write(nodes, features, np.zeros(1))


def _leaf_values(tree: Any, sizes: list[int], normalised: bool) -> Doubles:
    """Values by node, (nodes, sum of sizes); before scikit-learn 1.3 they were counts."""
    parts = [tree.value[:, target, :size] for target, size in enumerate(sizes)]
    if normalised:
        totals = [part.sum(axis=1, keepdims=True) for part in parts]
        parts = [
            part / np.where(all_ == 0, 1, all_) for part, all_ in zip(parts, totals, strict=True)
        ]
    found: Doubles = np.concatenate(parts, axis=1)
    return found


def _isolation_forest(scope: Any, operator: Any, container: Any) -> None:
    """Write scores from the mean depth of a sample: Liu, Ting and Zhou, Isolation Forest, 2008."""
    from sklearn.ensemble._iforest import _average_path_length

    model, nodes = operator.raw_operator, ContainerNodes(scope, container)
    trees, columns = Trees(1), model.estimators_features_
    for inner, used in zip(model.estimators_, columns, strict=True):
        tree = inner.tree_
        added = _average_path_length(tree.n_node_samples)
        _add_tree(trees, tree, (_depths(tree) + added)[:, None], used)
        trees.end()
    features = nodes.node("Cast", [operator.inputs[0].full_name], to=1)
    # Sums of depths may differ from the offset in their last places only.
    depth = nodes.node("Cast", [trees.write(nodes, features, np.zeros(1))], to=11)
    expected = len(model.estimators_) * float(_average_path_length([model._max_samples])[0])
    negated = nodes.constant(np.array([-expected]))
    power = nodes.node(
        "Pow", [nodes.constant(np.array([2.0])), nodes.node("Div", [depth, negated])]
    )
    scores = nodes.node("Sub", [nodes.constant(np.array([-float(model.offset_)])), power])
    outlier = nodes.node("Less", [scores, nodes.constant(np.zeros(1))])
    signs = [nodes.constant(np.array([sign], np.int64)) for sign in (-1, 1)]
    nodes.into(operator.outputs[0].full_name, "Where", [outlier, *signs])
    in_type_of(nodes, scores, operator.outputs[1])


def _depths(tree: Any) -> Array:
    """How many splits are above each node."""
    depths = np.zeros(tree.node_count)
    for node in range(tree.node_count):
        for child in (tree.children_left[node], tree.children_right[node]):
            if child >= 0:
                depths[child] = depths[node] + 1
    return depths


def _add_tree(trees: Trees, tree: Any, values: Array, columns: Array | None = None) -> None:
    missing = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count, bool))
    for node in range(tree.node_count):
        left, right = int(tree.children_left[node]), int(tree.children_right[node])
        if left < 0:
            trees.leaf(node, [(at, float(v)) for at, v in enumerate(values[node]) if v != 0])
        else:
            threshold = float(tree.threshold[node])
            branches = left, right
            feature = int(tree.feature[node] if columns is None else columns[tree.feature[node]])
            trees.split(
                node,
                feature,
                "BRANCH_LEQ",
                threshold,
                branches,
                bool(missing[node]),
            )
