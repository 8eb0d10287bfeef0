"""StackingClassifier of two classes over estimators that give scores.

scikit-learn stacks one column for each estimator then. skl2onnx takes one of them only where all
of them give probabilities, and two elsewhere, which the final estimator does not take.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from graphopt.convert.boosting.trees import ML_DOMAIN, write_label
from graphopt.convert.sklearn.converters import ContainerNodes
from graphopt.convert.sklearn.override import override


@functools.cache
def register_stacking() -> None:
    """Let skl2onnx write such a StackingClassifier; others it writes as before."""
    override("SklearnStackingClassifier", _is_meant, _convert)


def _is_meant(operator: Any) -> bool:
    stacking = operator.raw_operator
    methods = set(stacking.stack_method_)
    return (
        len(stacking.classes_) == 2
        and methods <= {"predict_proba", "decision_function"}
        and "decision_function" in methods
        and hasattr(stacking.final_estimator_, "predict_proba")
    )


def _convert(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common.data_types import Int64TensorType
    from skl2onnx.operator_converters.stacking import _fetch_scores

    stacking, taken = operator.raw_operator, operator.inputs[0]
    nodes = ContainerNodes(scope, container)
    second = nodes.constant(np.array([1], np.int64))
    estimators = [item for item in stacking.estimators_ if item != "drop"]
    columns = []
    for estimator, method in zip(estimators, stacking.stack_method_, strict=True):
        raw = method == "decision_function"
        scores = _fetch_scores(scope, container, estimator, taken, raw_scores=raw)
        columns.append(nodes.node("ArrayFeatureExtractor", [scores, second], domain=ML_DOMAIN))
    if stacking.passthrough:
        columns.append(taken.full_name)
    stacked = scope.declare_local_variable("stacked", type(taken.type)())
    nodes.into(stacked.full_name, "Concat", columns, axis=1)
    final = stacking.final_estimator_
    last = scope.declare_local_operator(sklearn_operator_name_map[type(final)], final)
    last.inputs.append(stacked)
    probabilities = scope.declare_local_variable("final_probabilities", type(taken.type)())
    last.outputs.append(scope.declare_local_variable("final_label", Int64TensorType()))
    last.outputs.append(probabilities)
    label = write_label(nodes, probabilities.full_name, np.asarray(stacking.classes_))
    nodes.into(operator.outputs[0].full_name, "Identity", [label])
    nodes.into(operator.outputs[1].full_name, "Identity", [probabilities.full_name])
