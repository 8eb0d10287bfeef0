"""Converters that are given to skl2onnx where its own are wrong or missing."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from graphopt.convert.boosting.graph import Outcome, write_link
from graphopt.convert.boosting.trees import (
    ML_DOMAIN,
    ML_OPSET,
    Trees,
    add_choice,
    write_label,
    write_two_classes,
)
from graphopt.convert.sklearn.boosting import library_of, write_booster
from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Array

_BITS = 32


@functools.cache
def register_converters() -> None:
    """Let skl2onnx write histogram gradient boosting with categories and exact thresholds."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    update_registered_converter(
        HistGradientBoostingClassifier,
        "GraphoptHistGradientBoostingClassifier",
        calculate_linear_classifier_output_shapes,
        _histogram_classifier,
        options={"zipmap": [True, False, "columns"], "nocl": [True, False]},
    )
    update_registered_converter(
        HistGradientBoostingRegressor,
        "GraphoptHistGradientBoostingRegressor",
        calculate_linear_regressor_output_shapes,
        _histogram_regressor,
    )


@functools.cache
def register_booster(kind: Hashable) -> None:
    """Let skl2onnx write a class of XGBoost, LightGBM or CatBoost."""
    from skl2onnx import update_registered_converter
    from skl2onnx._supported_operators import sklearn_classifier_list
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    name = f"Graphopt{getattr(kind, '__name__', '')}"
    # CatBoost's classes lack the tags by which scikit-learn tells classifiers.
    if hasattr(kind, "predict_proba"):
        sklearn_classifier_list.append(kind)
        update_registered_converter(
            kind,
            name,
            calculate_linear_classifier_output_shapes,
            _booster_classifier,
            options={"zipmap": [True, False, "columns"], "nocl": [True, False]},
        )
    else:
        update_registered_converter(kind, name, one_matrix, _booster_regressor)


def one_matrix(operator: Any) -> None:
    """Declare one output, a matrix of floats of the type of the input."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    given = operator.inputs[0]
    kind = DoubleTensorType if isinstance(given.type, DoubleTensorType) else FloatTensorType
    operator.outputs[0].type = kind([given.get_first_dimension(), None])


def _booster_classifier(scope: Any, operator: Any, container: Any) -> None:
    nodes = ContainerNodes(scope, container)
    predicted, outcome, targets = _booster_predictions(nodes, operator)
    if not outcome.classes:
        raise GraphoptError(
            f"the {type(operator.raw_operator).__name__} has an objective without classes"
        )
    probabilities = write_two_classes(nodes, predicted) if targets == 1 else predicted
    label = write_label(nodes, probabilities, np.asarray(operator.raw_operator.classes_))
    nodes.into(operator.outputs[0].full_name, "Identity", [label])
    in_type_of(nodes, probabilities, operator.outputs[1])


def _booster_regressor(scope: Any, operator: Any, container: Any) -> None:
    nodes = ContainerNodes(scope, container)
    predicted, _, _ = _booster_predictions(nodes, operator)
    in_type_of(nodes, predicted, operator.outputs[0])


def _booster_predictions(nodes: ContainerNodes, operator: Any) -> tuple[str, Outcome, int]:
    features, double = features_of(nodes, operator)
    if double and library_of(operator.raw_operator) != "lightgbm":
        # The others round every feature to float32, too.
        features, double = nodes.node("Cast", [features], to=1), False
    raw, outcome, targets = write_booster(nodes, features, operator.raw_operator, double)
    return write_link(nodes, raw, outcome), outcome, targets


class ContainerNodes:
    """`boosting_trees.Nodes` inside a graph that skl2onnx is writing."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope, self._container = scope, container

    def constant(self, array: Array) -> str:
        """Add an initializer."""
        from onnx import helper

        name: str = self._scope.get_unique_variable_name("constant")
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._container.add_initializer(name, kind, list(array.shape), array.ravel().tolist())
        return name

    def node(self, op_type: str, inputs: list[str], *, domain: str = "", **attributes: Any) -> str:
        """Add a node."""
        output: str = self._scope.get_unique_variable_name(op_type)
        self.into(output, op_type, inputs, domain=domain, **attributes)
        return output

    def nodes(self, op_type: str, inputs: list[str], count: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        outputs = [self._scope.get_unique_variable_name(op_type) for _ in range(count)]
        name = self._scope.get_unique_operator_name(op_type)
        self._container.add_node(op_type, inputs, outputs, op_domain="", name=name, **attributes)
        return outputs

    def into(
        self, output: str, op_type: str, inputs: list[str], *, domain: str = "", **attributes: Any
    ) -> None:
        """Add a node that makes a value of a given name."""
        from onnx import numpy_helper

        version = {"op_version": ML_OPSET} if domain == ML_DOMAIN else {}
        for key, value in attributes.items():
            if key.endswith("_as_tensor"):
                attributes[key] = numpy_helper.from_array(value)
        self._container.add_node(
            op_type,
            inputs,
            [output],
            op_domain=domain,
            name=self._scope.get_unique_operator_name(op_type),
            **version,
            **attributes,
        )


def features_of(nodes: ContainerNodes, operator: Any) -> tuple[str, bool]:
    """Name the features as floats, and tell whether they are float64."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    value = operator.inputs[0]
    if isinstance(value.type, (DoubleTensorType, FloatTensorType)):
        return value.full_name, isinstance(value.type, DoubleTensorType)
    return nodes.node("Cast", [value.full_name], to=1), False


def in_type_of(nodes: ContainerNodes, name: str, value: Any) -> None:
    """Write a float into an operator's output, in the type that skl2onnx declared."""
    from skl2onnx.common.data_types import DoubleTensorType

    nodes.into(
        value.full_name, "Cast", [name], to=11 if isinstance(value.type, DoubleTensorType) else 1
    )


def several_targets(
    nodes: ContainerNodes, operator: Any, scores: Sequence[str], classes: Sequence[Array]
) -> None:
    """Write the outputs of a classifier of several targets.

    Args:
        nodes: Where to.
        operator: Whose outputs are written: labels, (batch, targets), and scores, (targets, batch,
            classes).
        scores: Of each target, (batch, classes).
        classes: Of each target.

    Raises:
        GraphoptError: The labels have several types.
    """
    from skl2onnx.common.data_types import DoubleTensorType

    if len({own.dtype.kind in "OUS" for own in classes}) > 1:
        raise GraphoptError("some of its targets are strings and some are numbers")
    first, last = (nodes.constant(np.array([axis], np.int64)) for axis in (0, 1))
    columns, layers = [], []
    given, labels = operator.outputs[1], operator.outputs[0]
    kind = 11 if isinstance(given.type, DoubleTensorType) else 1
    for part, own in zip(scores, classes, strict=True):
        columns.append(nodes.node("Unsqueeze", [write_label(nodes, part, own), last]))
        layers.append(nodes.node("Unsqueeze", [nodes.node("Cast", [part], to=kind), first]))
    nodes.into(labels.full_name, "Concat", columns, axis=1)
    nodes.into(given.full_name, "Concat", layers, axis=0)


def _histogram_classifier(scope: Any, operator: Any, container: Any) -> None:
    model = operator.raw_operator
    nodes = ContainerNodes(scope, container)
    raw = _histogram_scores(nodes, operator)
    if model.n_trees_per_iteration_ == 1:
        probabilities = write_two_classes(nodes, nodes.node("Sigmoid", [raw]))
    else:
        probabilities = nodes.node("Softmax", [raw], axis=1)
    label = write_label(nodes, probabilities, model.classes_)
    nodes.into(operator.outputs[0].full_name, "Identity", [label])
    in_type_of(nodes, probabilities, operator.outputs[1])


def _histogram_regressor(scope: Any, operator: Any, container: Any) -> None:
    nodes = ContainerNodes(scope, container)
    raw = _histogram_scores(nodes, operator)
    link = type(operator.raw_operator._loss.link).__name__
    if link == "LogLink":
        raw = nodes.node("Exp", [raw])
    elif link != "IdentityLink":
        raise GraphoptError(f"the link {link} of histogram gradient boosting is unknown")
    in_type_of(nodes, raw, operator.outputs[0])


def _histogram_scores(nodes: ContainerNodes, operator: Any) -> str:
    model = operator.raw_operator
    features, double = features_of(nodes, operator)
    columns, categories = _encoded(model)
    trees = Trees(int(model.n_trees_per_iteration_), double=double)
    for iteration in model._predictors:
        for target, predictor in enumerate(iteration):
            _add_tree(trees, predictor, target, columns, categories)
            trees.end()
    return trees.write(nodes, features, np.ravel(model._baseline_prediction))


def _encoded(model: Any) -> tuple[list[int], dict[int, Array]]:
    """Undo the encoder in front of the trees: their columns, and the categories behind numbers."""
    width = int(model.n_features_in_)
    mask = model.is_categorical_
    if mask is None or model._preprocessor is None:
        return list(range(width)), {}
    order = [at for at in range(width) if mask[at]] + [at for at in range(width) if not mask[at]]
    encoder = model._preprocessor.named_transformers_["encoder"]
    categories = {at: np.asarray(known) for at, known in enumerate(encoder.categories_)}
    for known in categories.values():
        if known.dtype.kind not in "iufb":
            raise GraphoptError(
                "histogram gradient boosting with categories that are strings cannot be written",
                fix="encode them with OrdinalEncoder in a ColumnTransformer in front of it",
            )
    return order, categories


def _add_tree(
    trees: Trees, predictor: Any, target: int, columns: list[int], categories: dict[int, Array]
) -> None:
    free = len(predictor.nodes)
    for number, node in enumerate(predictor.nodes):
        column, missing = columns[int(node["feature_idx"])], bool(node["missing_go_to_left"])
        left, right = int(node["left"]), int(node["right"])
        if node["is_leaf"]:
            trees.leaf(number, [(target, float(node["value"]))])
        elif not node["is_categorical"]:
            threshold = float(node["num_threshold"])
            trees.split(number, column, "BRANCH_LEQ", threshold, (left, right), missing)
        else:
            bits = predictor.raw_left_cat_bitsets[int(node["bitset_idx"])]
            known = categories[int(node["feature_idx"])].astype(np.float64)
            # Unknown categories go where missing ones go: name those that go the other way.
            other, rest = (right, left) if missing else (left, right)
            named = [
                float(value)
                for at, value in enumerate(known)
                if bool(bits[at // _BITS] >> (at % _BITS) & 1) is not missing
                and not np.isnan(value)
            ]
            free = add_choice(trees, number, column, named, (other, rest), free)
